"""Checkpoints whose weights are base + log."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import nn

from zoft.errors import UsageError
from zoft.optimizer import ZOOptimizer
from zoft.space import ParameterSpace
from zoft.trainer.recording import LOG_NAME, RecordTrajectory
from zoft.trainer.renamed import RenamedWeights
from zoft.trainer.settings import ZOSettings
from zoft.trajectory import Replayed, TrajectoryError, TrajectoryLog, replay
from zoft.trajectory.mark import MARK, read_mark

WEIGHTS = ("*.safetensors", "*.bin", "*/*.safetensors", "pytorch_model_fsdp*")


class LightCheckpoints(RenamedWeights):
    """The part of `ZOMixin` that saves and loads.

    With zo_light_checkpoints a checkpoint holds everything but the trained weights, their low-order bits and momenta: some
    kilobytes, so that one can be written every few steps. Whoever resumes from it builds the base model as at the start of the
    run, and replays the log up to the checkpoint's step: no forward pass, and no weights travel between processes.
    """

    zo_settings: ZOSettings
    zo: ZOOptimizer | None = None  # exists once training starts
    _recording: RecordTrajectory | None = None
    _caught_up: ParameterSpace | None = None  # what a light checkpoint's log gave, until the optimizer takes it over

    def check_light(self) -> None:
        """Raises UsageError for settings that need weights in a checkpoint."""
        if self.zo_settings.zo_light_checkpoints and (self.args.load_best_model_at_end or self.args.save_only_model):
            raise UsageError(
                "zo_light_checkpoints=true keeps no weights in a checkpoint, so load_best_model_at_end and "
                "save_only_model have nothing to work with; leave them out, and take any step's model from the log "
                "(zoft replay --until STEP)"
            )

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As `Trainer.save_model`, at the weights; a checkpoint begins with it, and the log must be on the disk before."""
        if isinstance(self.zo, ZOOptimizer):
            self.zo.settle()
        if self._recording is not None:
            self._recording.sync()
        if self.zo_settings.zo_light_checkpoints and _internal_call:
            if self.args.should_save:
                os.makedirs(str(output_dir), exist_ok=True)
            return
        super().save_model(output_dir, _internal_call)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if not is_light(Path(resume_from_checkpoint)):
            return super()._load_from_checkpoint(resume_from_checkpoint, model)
        trained: Any = self.model if model is None else model
        self._caught_up = catch_up(trained, Path(resume_from_checkpoint), self.zo_settings.zo_backend).space

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self._caught_up is not None and self.zo is not None:
            self.zo.space.load_residuals(dict(self._caught_up.residuals()))
            self.zo.space.momenta.load(self._caught_up.momenta)
            self._caught_up = None


def is_light(checkpoint: Path) -> bool:
    """A checkpoint without weights, but with its place on a log."""
    return (checkpoint / MARK).is_file() and not any(any(checkpoint.glob(pattern)) for pattern in WEIGHTS)


def catch_up(model: nn.Module, checkpoint: Path, backend: str = "auto") -> Replayed:
    """Turn `model`, which stands where the run began, into that of a light checkpoint, by the log beside it.

    Raises:
        UsageError: there is no log, it does not lead there, or the model is not the one that the run started from.
    """
    mark = read_mark(checkpoint)
    path = checkpoint.parent / LOG_NAME
    assert mark is not None, "a light checkpoint has a mark"
    try:
        log = TrajectoryLog.read(path, until=mark.steps)
        if not mark.on(log):
            raise TrajectoryError(f"{path} tells of other steps than those that led to {checkpoint}")
        return replay(model, log, backend=backend)
    except TrajectoryError as error:
        raise UsageError(
            f"{checkpoint} holds no weights (zo_light_checkpoints) and cannot be caught up: {error}"
        ) from error
