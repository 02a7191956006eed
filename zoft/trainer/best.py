"""After `load_best_model_at_end`: the optimizer and the log must stand where the loaded weights stand."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from zoft.mezo import MeZO
from zoft.optimizer import ZOOptimizer
from zoft.trainer.stateless import OPTIMIZER_FILE, forget
from zoft.trajectory import TrajectoryLog
from zoft.trajectory.mark import MARK, read_mark
from zoft.trajectory.recorder import write_whole

logger = logging.getLogger(__name__)


def follow_best(optimizer: ZOOptimizer | MeZO, checkpoint: Path) -> None:
    """Put residual bits, rule state and step count where they were when `checkpoint` was written."""
    file = checkpoint / OPTIMIZER_FILE
    if file.is_file():
        optimizer.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
        return
    mark = read_mark(checkpoint)
    optimizer.steps = optimizer.steps if mark is None else mark.steps
    logger.warning(
        "%s holds no optimizer state (save_only_model): the weights loaded from it stand without low-order bits and "
        "momentum", checkpoint,
    )  # fmt: skip
    forget(optimizer)


def mark_best(checkpoint: Path, log: Path) -> None:
    """Leave the checkpoint's mark beside the finished log, so that it is read up to there."""
    mark = read_mark(checkpoint)
    if mark is not None and mark.on(TrajectoryLog.read(log)):
        write_whole(log.parent / MARK, mark.to_json())
    else:
        logger.warning("%s does not lead to the weights loaded from %s: another run's steps did", log, checkpoint)
