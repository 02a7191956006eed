"""Going on by itself after a launcher has started the processes again."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from zoft.agreement import require_equal
from zoft.distributed import gather
from zoft.trainer.recording import LOG_NAME
from zoft.trainer.refused import whole_checkpoints
from zoft.trajectory import TrajectoryLog
from zoft.trajectory.mark import MARK, read_mark

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

    Checkpoints of an earlier run in the same folder are not on its log; or, where the processes failed before they began a
    log of their own, they are older than the launcher.

    Raises:
        UsageError: the processes do not see the same files.
    """
    marked = [
        (step, path, mark) for step, path in whole_checkpoints(folder).items() if (mark := read_mark(path)) is not None
    ]
    log = TrajectoryLog.read(folder / LOG_NAME) if marked and (folder / LOG_NAME).is_file() else None
    since = min(row[0] for row in gather([_launched()]))
    on_log = [
        (mark.steps, step, path)
        for step, path, mark in marked
        if log is not None and mark.on(log) and (path / MARK).stat().st_mtime >= since
    ]
    _, number, found = max(on_log, default=(0, 0, None))
    what = f"the checkpoint found in {folder} (put output_dir on a disk that all machines share, or set save_on_each_node=true)"
    require_equal(number, what)
    logger.warning("started again by the launcher: %s", f"going on from {found}" if found else "from the beginning")
    return found


def _launched() -> float:
    """When the launcher of this process was started [seconds since 1970]."""
    import psutil  # accelerate brings it

    return psutil.Process(os.getppid()).create_time()
