"""Sharing a fine-tuned model as the name of its base and a few kilobytes."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoft import __version__
from zoft.errors import UsageError
from zoft.trajectory.compact import encode_compact
from zoft.trajectory.errors import TrajectoryError
from zoft.trajectory.log import TrajectoryLog
from zoft.trajectory.mark import read_to_mark
from zoft.trajectory.recorder import write_whole
from zoft.trajectory.replay import merge, replay

LOG, CARD, SETTINGS = "trajectory.zoft", "README.md", "settings.json"
START = "start"  # folder beside a log: the adapter before the first step, where the base is not the whole start
DTYPES = ("float32", "float64", "bfloat16", "float16")


def log_file(path: str | os.PathLike[str]) -> Path:
    """The log in a run's or packed folder, or the file itself, or (a name that is no path here) fetched from the Hub.

    Raises:
        TrajectoryError: there is none.
    """
    here = Path(path)
    if not here.exists() and len(here.parts) == 2 and not here.is_absolute():
        here = _from_hub(str(path))
    found = here / LOG if here.is_dir() else here
    if not found.is_file():
        raise TrajectoryError(f"{path}: there is no trajectory log; give a log file, a run's folder or a packed folder")
    return found


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=[LOG, CARD, SETTINGS, f"{START}/*"]))
    except Exception as error:  # offline, no such repository, no access: many types, one meaning
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TrajectoryError(f"{name} is no file or folder here, and the Hub did not give it: {line}") from error


def load_base(log: TrajectoryLog, path: Path, base: str | None = None) -> Any:
    """The model that a log starts from, in its dtype.

    Args:
        base: folder or name on the Hub; None: the one that the log, or the adapter beside it, names. Where a start lies
            beside the log, training began there, and `base` is what its adapter belongs to.

    Raises:
        UsageError: unknown, or it cannot be loaded.
    """
    from zoft.models import architecture_of, load_model

    start = path.parent / START
    name = str(start) if start.is_dir() else base or log.header.base
    if not name:
        raise TrajectoryError("the log does not name its base model; give base=…")
    if log.header.dtype not in DTYPES:
        raise TrajectoryError(f"the log was trained on a {log.header.dtype} base, which cannot be loaded by name")
    adapted = (start / "adapter_config.json").is_file()
    try:
        architecture = architecture_of(base if base and adapted else name)
    except UsageError as error:
        started = log.header.base or "a model that it does not name"
        raise TrajectoryError(f"{str(error).rstrip('.')}; the log says that training started from {started}") from error
    options: dict[str, Any] = {"base": base} if adapted else {}
    if adapted or not start.is_dir():  # else the start was saved as it was stored
        options["quantization"] = _quantization(path.parent)
    if architecture == "classifier":
        options["labels"] = _labels(name) if not adapted else _adapted_labels(start)
    model = load_model(name, dtype=log.header.dtype, architecture=architecture, **options)
    if any(parameter.name.rsplit(".", 1)[-1] == "scales" for parameter in log.header.parameters):
        from zoft.tuning.table import apply_tuning

        return apply_tuning(model, tuning="scales")
    return model


def _quantization(folder: Path) -> str:
    """How the base was quantised when it was loaded, as the settings beside the log say."""
    try:
        told = json.loads((folder / SETTINGS).read_text())
    except FileNotFoundError:
        return "none"
    except ValueError as error:
        raise TrajectoryError(f"{folder / SETTINGS} cannot be read: {error}") from error
    return str(told.get("quantization", "none")) if isinstance(told, dict) else "none"


def _adapted_labels(start: Path) -> int:
    """Outputs of the head that was saved with an adapter."""
    from safetensors import safe_open

    with safe_open(str(start / "adapter_model.safetensors"), "pt") as saved:
        names: list[str] = saved.keys()
        heads = [name for name in names if name.endswith(("classifier.weight", "score.weight", "out_proj.weight"))]
        return saved.get_slice(heads[-1]).get_shape()[0] if heads else 2


def _labels(name: str) -> int:
    from transformers import AutoConfig

    config: Any = AutoConfig.from_pretrained(name)
    return config.num_labels


def from_trajectory(
    path: str | os.PathLike[str] | Mapping[str, float],
    base: str | None = None,
    until: int | None = None,
    *,
    backend: str = "auto",
) -> Any:
    """The fine-tuned model: its base, loaded, with the log replayed on it.

    Args:
        path: a packed folder, a run's folder, a log, or the name of a packed folder on the Hub. Several with a scale
        each,
            {path: scale}, are merged by task arithmetic (`zoft.trajectory.merge`).
        base: folder or name of the base model; None: the one that the log names.
        until: stop after so many optimizer steps; None: all, or up to the best checkpoint, where the run loaded that.

    Raises:
        UsageError: no log, a damaged one, no base, or another base than the run's.
    """
    scales = path if isinstance(path, Mapping) else {os.fspath(path): 1.0}
    if not scales:
        raise TrajectoryError("there is nothing to merge: give at least one log")
    files = [log_file(name) for name in scales]
    logs = [read_to_mark(file, until) for file in files]
    model = load_base(logs[0], files[0], base)
    if isinstance(path, Mapping):
        merge(model, list(zip(logs, map(float, scales.values()), strict=True)), backend=backend)
    else:
        replay(model, logs[0], backend=backend)
    return model


def pack(
    path: str | os.PathLike[str], out: str | os.PathLike[str], base: str | None = None, until: int | None = None
) -> Path:
    """A folder to publish: the compact log, a model card, and the adapter that the run started from, if it did.

    Args:
        path: of the log or its run's folder.
        out: a new or empty folder.
        base: the name under which others find the base model; None: the one that the log has.

    Raises:
        UsageError: no log, an empty one, or a folder that holds something.
    """
    file, folder = log_file(path), Path(out)
    log = read_to_mark(file, until)
    name = base or log.header.base
    if not name:
        raise TrajectoryError("the log does not name its base model; give base=… (--base NAME)")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} holds something already; give a new folder")
    data = encode_compact(log.on(name))
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / LOG, data)
    if (file.parent / START).is_dir():
        shutil.copytree(file.parent / START, folder / START)
    quantization = _quantization(file.parent)
    if quantization != "none":
        write_whole(folder / SETTINGS, json.dumps({"quantization": quantization}).encode())
    write_whole(folder / CARD, card(log.on(name), len(data)).encode())
    return folder


def card(log: TrajectoryLog, size: int) -> str:
    """The model card of a packed run."""
    header = log.header
    skipped = sum(step.flags.skipped for step in log.steps)
    facts = {
        "base model": f"`{header.base}` ({header.dtype})",
        "steps": f"{len(log.steps):,}" + (f", of which {skipped:,} moved nothing" if skipped else ""),
        "trained weights": f"{len(header.parameters):,} tensors, {_elements(log):,} numbers",
        "directions": f"{header.directions} a step, {header.distribution}, seed {header.seed}",
        "update rule": str(header.rule.get("name")),
        "storage of 16-bit weights": header.rounding,
        "base fingerprint": f"`{header.weights}` (trained), `{header.frozen}` (frozen)",
    }
    rows = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    # A folder of this machine is no name of a model on the Hub, and Hub metadata would be refused with it.
    of = f"base_model: {header.base}\n" if not Path(header.base).exists() else ""
    return f"""---
{of}tags:
- zoft
- zeroth-order
---

# A trajectory on {header.base}

This folder holds no weights. It holds the {size:,} bytes from which zoft rebuilds the fine-tuned weights, bit for
bit, by repeating what training added to the base model.

```python
import zoft

model = zoft.from_trajectory("path/to/this/folder")
```

or `zoft replay {header.base} {LOG} OUT`, which saves an ordinary model folder.

| | |
|---|---|
{rows}

Written by zoft {__version__}.
"""


def _elements(log: TrajectoryLog) -> int:
    return sum(math.prod(parameter.shape) for parameter in log.header.parameters)
