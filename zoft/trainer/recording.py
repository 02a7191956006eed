"""The trajectory log of a Trainer's run: begun when training begins, marked at every checkpoint, closed at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from zoft.optimizer import ZOOptimizer
from zoft.trajectory import Recorder, attach

LOG_NAME = "trajectory.zoft"


class RecordTrajectory(TrainerCallback):
    """Writes `<output_dir>/trajectory.zoft` on the process that saves. `ZOMixin` adds it by itself."""

    def __init__(self, optimizer: ZOOptimizer, base: str) -> None:
        self.optimizer = optimizer
        self.base = base
        self.checkpoint: str | None = None  # the folder that is resumed from
        self._recorder: Recorder | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.open(args)

    def open(self, args: Any) -> None:
        """Record from the optimizer's present step on; a rewind closes, moves the optimizer back and opens again."""
        if args.should_save:
            path = Path(args.output_dir) / LOG_NAME
            self._recorder = attach(self.optimizer, path, base=self.base, checkpoint=self.checkpoint)
            self.checkpoint = None  # after a rewind the log stands elsewhere

    def sync(self) -> None:
        """Bring the log to the disk: before a checkpoint is written, which must not be ahead of it after a power cut."""
        if self._recorder is not None:
            self._recorder.sync()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._recorder is not None:
            self._recorder.checkpoint(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def close(self) -> None:
        """Stop recording, whether training ended well or not."""
        if self._recorder is not None:
            self.optimizer.observers.remove(self._recorder)
            self._recorder.close()
            self._recorder = None
