"""Results as rows of a CSV file that only grows, each with the machine, the versions and the commit it was measured on."""

from __future__ import annotations

import csv
import datetime
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from zoft import __version__
from zoft.errors import UsageError


def circumstances(device: torch.device | str = "cpu") -> dict[str, str]:
    """Date, device, threads, versions and commit."""
    where = torch.device(device)
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else _processor()
    import numba
    import transformers

    return {
        "date": datetime.date.today().isoformat(),
        "device": name,
        "threads": str(torch.get_num_threads()),
        "torch": str(torch.__version__),
        "transformers": str(transformers.__version__),
        "numba": str(numba.__version__),
        "zoft": __version__,
        "commit": _commit(),
    }


def append(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add rows under the header that the file has, or a new one.

    Raises:
        UsageError: the file has other columns.
    """
    path, columns = Path(path), list(rows[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    old = path.exists() and path.stat().st_size > 0
    if old:
        with open(path, newline="", encoding="utf-8") as file:
            header = next(csv.reader(file))
        if header != columns:
            raise UsageError(f"{path} has the columns {', '.join(header)}, not {', '.join(columns)}; give another file")
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        if not old:
            writer.writeheader()
        writer.writerows(rows)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as lines:
            model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"


def _commit() -> str:
    """Of the source tree; with + where it was changed; empty outside one."""
    root = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True).stdout

    try:
        return git("rev-parse", "--short", "HEAD").strip() + (
            "+" if git("status", "--porcelain", "-uno").strip() else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
