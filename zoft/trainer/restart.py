"""Going on by itself after a launcher has started the processes again."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from zoft.agreement import require_equal
from zoft.trainer.recording import LOG_NAME
from zoft.trajectory import TrajectoryLog
from zoft.trajectory.mark import Mark, read_mark

logger = logging.getLogger(__name__)


def restarted(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether torchrun (--max-restarts) has started this process in place of one that failed."""
    return int(environ.get("TORCHELASTIC_RESTART_COUNT") or 0) > 0


def check_restarts(environ: Mapping[str, str] = os.environ) -> None:
    """Warn where the launcher is to start processes again and would give them the addresses of those that are gone.

    torchrun's c10d rendezvous (also --standalone) keeps one store for all starts; gloo then finds the
    first start's addresses in it and connects to nobody (seen with torch 2.13).
    """
    again = int(environ.get("TORCHELASTIC_MAX_RESTARTS") or 0) > 0
    if again and environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and environ.get("RANK", "0") == "0":
        logger.warning(
            "torchrun --max-restarts: set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 before it, or the processes that it starts "
            "again are given the addresses of those that are gone"
        )


def newest_of_this_run(folder: Path) -> Path | None:
    """The last checkpoint that was written whole and lies on the log of the run in `folder`; None: begin anew.

    Checkpoints of an earlier run in the same folder are not on its log.

    Raises:
        UsageError: the processes do not see the same files.
    """
    found, marks = None, _whole(folder)
    log = TrajectoryLog.read(folder / LOG_NAME) if marks and (folder / LOG_NAME).is_file() else None
    if log is not None:
        on_log = [(mark.steps, path) for path, mark in marks.items() if mark.on(log)]
        found = max(on_log, default=(0, None))[1]
    number = 0 if found is None else int(found.name.rpartition("-")[2])
    what = f"the checkpoint found in {folder} (put output_dir on a disk that all machines share, or set save_on_each_node=true)"
    require_equal(number, what)
    logger.warning("started again by the launcher: %s", f"going on from {found}" if found else "from the beginning")
    return found


def _whole(folder: Path) -> dict[Path, Mark]:
    """Checkpoints with Trainer's state and the log's mark, which is written last."""
    marks: dict[Path, Mark] = {}
    for path in folder.glob("checkpoint-*"):
        if path.name.rpartition("-")[2].isdigit() and (path / "trainer_state.json").is_file():
            mark = read_mark(path)
            if mark is not None:
                marks[path] = mark
    return marks
