"""Going on from a checkpoint that holds weights but no optimizer state (`save_only_model`)."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import torch

from zoft.mezo import MeZO
from zoft.optimizer import ZOOptimizer
from zoft.trainer.refused import check_checkpoint
from zoft.trajectory.mark import read_mark

logger = logging.getLogger(__name__)
OPTIMIZER_FILE, SCHEDULER_FILE, STATE_FILE = "optimizer.pt", "scheduler.pt", "trainer_state.json"  # Trainer's names


def go_on(optimizer: ZOOptimizer | MeZO, checkpoint: str | None) -> None:
    """Before Trainer loads `checkpoint`: where it will find no optimizer state there, count from the checkpoint's step.

    The optimizer's own count cannot tell whether a state was loaded: after a rewind it is rightly below Trainer's.

    Raises:
        UsageError: no checkpoint lies there.
    """
    if checkpoint is None or all((Path(checkpoint) / file).is_file() for file in (OPTIMIZER_FILE, SCHEDULER_FILE)):
        return
    check_checkpoint(checkpoint)
    mark = read_mark(Path(checkpoint))
    trainers = int(json.loads((Path(checkpoint) / STATE_FILE).read_bytes())["global_step"])
    optimizer.steps = trainers if mark is None else mark.steps
    logger.warning("no optimizer state in the checkpoint: directions go on from step %d", optimizer.steps)
    forget(optimizer)


def forget(optimizer: ZOOptimizer | MeZO) -> None:
    """Weights were loaded alone: momentum and low-order bits of other weights do not belong to them."""
    if isinstance(optimizer, MeZO):
        return
    optimizer.rule_state = optimizer.rule.init()
    optimizer.space.momenta.begin()
    optimizer.space.load_residuals({name: torch.zeros_like(bits) for name, bits in optimizer.space.residuals()})
