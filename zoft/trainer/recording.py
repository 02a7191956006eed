"""The trajectory log of a Trainer's run: begun when training begins, marked at every checkpoint, closed at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from zoft.optimizer import ZOOptimizer
from zoft.trajectory import Recorder, attach
from zoft.trajectory.fingerprint import Fingerprints, state_fingerprint

LOG_NAME = "trajectory.zoft"


class RecordTrajectory(TrainerCallback):
    """Writes `<output_dir>/trajectory.zoft` on the process that saves. `ZOMixin` adds it by itself."""

    def __init__(self, optimizer: ZOOptimizer, base: str) -> None:
        self.optimizer = optimizer
        self.base = base
        self.checkpoint: str | None = None  # the folder that is resumed from
        self._recorder: Recorder | None = None
        self._open = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.open(args)

    def open(self, args: Any) -> None:
        """Record from the optimizer's present step on; a rewind closes, moves the optimizer back and opens again."""
        optimizer, known = self.optimizer, None
        self._open = True
        if optimizer.space.sharded:  # all processes together, whoever keeps the log
            known = Fingerprints.of(optimizer.model, optimizer.space, optimizer.rule_state)
        if args.should_save:
            path = Path(args.output_dir) / LOG_NAME
            self._recorder = attach(optimizer, path, base=self.base, checkpoint=self.checkpoint, known=known)
            self.checkpoint = None  # after a rewind the log stands elsewhere

    def sync(self) -> None:
        """Bring the log to the disk: before a checkpoint is written, which must not be ahead of it after a power cut."""
        if self._recorder is not None:
            self._recorder.sync()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        found = self._state()
        if self._recorder is not None:
            self._recorder.checkpoint(Path(args.output_dir) / f"checkpoint-{state.global_step}", found)

    def _state(self) -> str | None:
        """Of a sharded model, taken by all its processes; None: whoever needs it can take it alone."""
        optimizer = self.optimizer
        return state_fingerprint(optimizer.space, optimizer.rule_state) if optimizer.space.sharded else None

    def close(self, failed: bool = False) -> None:
        """Stop recording, whether training ended well or not (then a sharded model's other processes may be gone)."""
        found = self._state() if self._open and not failed else None
        self._open = False
        if self._recorder is not None:
            self.optimizer.observers.remove(self._recorder)
            self._recorder.close(found)
            self._recorder = None
