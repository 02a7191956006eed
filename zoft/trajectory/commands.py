"""`zoft replay`, `zoft pack` and `zoft merge`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoft.errors import UsageError


def replay(argv: Sequence[str]) -> int:
    """zoft replay BASE LOG OUT [--until STEP]"""
    parser = _parser("replay", "Rebuild the weights of a run from its base model and its log, without forward passes.")
    parser.add_argument("base", metavar="BASE", help="folder or name on the Hub of the model that the run started from")
    parser.add_argument("log", metavar="LOG", help="trajectory.zoft, or the folder that holds it")
    parser.add_argument("out", metavar="OUT", help="new folder for the model")
    parser.add_argument(
        "--until",
        type=int,
        metavar="STEP",
        help="stop after so many optimizer steps (default: all, or up to the best checkpoint that the run loaded)",
    )
    asked = parser.parse_args(argv)
    from zoft.trajectory.mark import read_to_mark
    from zoft.trajectory.publish import load_base, log_file
    from zoft.trajectory.replay import replay as run

    out, file = _new_folder(asked.out), log_file(asked.log)
    log = read_to_mark(file, asked.until)
    if log.torn:
        print(f"the log ends in {log.torn} bytes of a record that was never written whole; they are left out")
    model = load_base(log, file, asked.base)
    started = time.perf_counter()
    arrived = run(model, log)
    seconds = time.perf_counter() - started
    _save(model, asked.base, out)
    print(f"{len(log.steps)} steps replayed in {seconds:.2f} s, to step {arrived.steps}; the model lies in {out}")
    return 0


def pack(argv: Sequence[str]) -> int:
    """zoft pack LOG OUT [--base NAME] [--until STEP]"""
    parser = _parser("pack", "Make a folder to publish: name of the base model, compact log and model card.")
    parser.add_argument("log", metavar="LOG", help="trajectory.zoft, or the folder of the run")
    parser.add_argument("out", metavar="OUT", help="new folder")
    parser.add_argument("--base", metavar="NAME", help="where others find the base model; default: as the log says")
    parser.add_argument("--until", type=int, metavar="STEP", help="only so many optimizer steps")
    asked = parser.parse_args(argv)
    from zoft.trajectory import TrajectoryLog, publish

    folder = publish.pack(asked.log, asked.out, asked.base, asked.until)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    named = TrajectoryLog.read(folder / publish.LOG).header.base
    if Path(named).exists():
        print(f"the base model is named {named}, a folder that others do not have; --base NAME says where they find it")
    print(f"{folder}: {size:,} bytes; load it with zoft.from_trajectory({str(folder)!r})")
    return 0


def merge(argv: Sequence[str]) -> int:
    """zoft merge BASE OUT LOG=SCALE ..."""
    parser = _parser("merge", "Task arithmetic: base + sum of scale x (what each run added), over runs from one base.")
    parser.add_argument("base", metavar="BASE", help="folder or name on the Hub of the model that all started from")
    parser.add_argument("out", metavar="OUT", help="new folder for the model")
    parser.add_argument("logs", metavar="LOG=SCALE", nargs="+", help="a log or its folder, and its scale")
    asked = parser.parse_args(argv)
    from zoft.trajectory.publish import from_trajectory

    out, logs = _new_folder(asked.out), dict(map(_scaled, asked.logs))
    if len(logs) < len(asked.logs):
        raise UsageError("a log was named twice; give each once, with the sum of its scales")
    _save(from_trajectory(logs, asked.base), asked.base, out)
    print(f"{len(logs)} runs merged; the model lies in {out}")
    return 0


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=f"zoft {name}", description=description, allow_abbrev=False)


def _scaled(text: str) -> tuple[str, float]:
    """("runs/a", 0.5) from "runs/a=0.5". UsageError when there is no scale."""
    path, _, scale = text.rpartition("=")
    try:
        return path, float(scale)
    except ValueError as error:
        raise UsageError(f"{text!r} is not LOG=SCALE, as in runs/a=0.5") from error


def _new_folder(name: str) -> Path:
    """UsageError when the folder holds something: found before any work."""
    folder = Path(name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} holds something already; give a new folder")
    return folder


def _save(model: Any, base: str, folder: Path) -> None:
    """An ordinary model folder, with the tokenizer of the base if it has one."""
    from zoft.models import load_tokenizer

    model.save_pretrained(folder)
    try:
        load_tokenizer(base).save_pretrained(folder)
    except UsageError:
        print(f"{base} has no tokenizer; the folder holds the model alone")
