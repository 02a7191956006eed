"""Back to the last good point, when the guard has refused too many steps in a row."""

from __future__ import annotations

import logging
from dataclasses import fields, replace
from typing import Any

import torch
from transformers import TrainerCallback

from zoft.estimate import Step
from zoft.optimizer import ZOOptimizer
from zoft.stability import Steering
from zoft.trainer.recording import RecordTrajectory
from zoft.trajectory import Snapshot, TrajectoryLog, rewind
from zoft.trajectory.header import Header, describe
from zoft.trajectory.record import CHECK_BYTES, decode, encode, record_bytes

logger = logging.getLogger(__name__)
ANCHOR_EVERY = 200  # steps between copies of the weights
BEFORE = 20  # steps before the first refusal: the guard's memory, by when trouble may have begun


class Rewinding(TrainerCallback):
    """Keeps one or two copies of the trained weights in CPU memory, and the steps since. `ZOMixin` adds it for guard=rewind.

    A rewind puts a copy back and replays from it, bit for bit, up to 20 steps before the first refusal. Copies are made
    where the guard calls the place good; after a slow climb of the loss the newest copy is the goal itself. The log is cut
    there, and the learning rate asked for is halved from then on, because the same steps would end in the same place.
    Trainer's own count of steps goes on: the steps undone are spent. A checkpoint carries the copies and the steps, in the
    governor's state, so that a run that is resumed from it goes back to the same places.
    """

    def __init__(self, optimizer: ZOOptimizer, steering: Steering, recording: RecordTrajectory | None) -> None:
        self.optimizer, self.steering, self.recording = optimizer, steering, recording
        self.rewinds: list[tuple[int, int]] = []  # (from step, to step)
        self._anchors: list[Snapshot] = []
        self._steps: list[Step] = []  # since the first anchor
        self._row = 0  # refused in a row, up to now
        self._resumed = False  # are the places those of a checkpoint that training goes on from
        steering.places = self

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self._resumed:
            self._anchors, self._steps, self._row = [Snapshot.take(self.optimizer)], [], 0
            self.steering.keep(self.optimizer.steps)
        self._resumed = False
        self.optimizer.observers.append(self._see)

    def close(self) -> None:
        """Stop looking, whether training ended well or not."""
        self._resumed = False
        if self._see in self.optimizer.observers:
            self.optimizer.observers.remove(self._see)

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors: the copies, and the records of the steps since the first of them."""
        header = self._header()
        records = b"".join(encode(header, step) for step in self._steps)
        return {
            "anchors": [
                {field.name: getattr(anchor, field.name) for field in fields(anchor)} for anchor in self._anchors
            ],
            "capacity": header.capacity,
            "records": torch.tensor(list(records), dtype=torch.uint8),
            "row": self._row,
            "rewinds": [list(pair) for pair in self.rewinds],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The places that `state_dict` told of; training that begins next keeps them."""
        self._anchors = [Snapshot.of_state(anchor) for anchor in state["anchors"]]
        header = replace(self._header(), capacity=state["capacity"])
        records = bytes(state["records"].tolist())
        size = record_bytes(header) - CHECK_BYTES
        self._steps = [decode(header, records[at : at + size]) for at in range(0, len(records), size)]
        self._row, self.rewinds = state["row"], [(here, back) for here, back in state["rewinds"]]
        self._resumed = bool(self._anchors)

    def _see(self, step: Step) -> None:
        self._steps.append(step)
        self._row = self._row + 1 if step.flags.skipped else 0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.steering.rewind_wanted:
            self._rewind(args, state, control)
        elif self._good and self.optimizer.steps >= self._anchors[-1].step + ANCHOR_EVERY:
            self._anchors.append(Snapshot.take(self.optimizer))
            self.steering.keep(self.optimizer.steps)
            if len(self._anchors) > 2:  # the older one is needed while the newer one is not 20 steps old
                del self._anchors[0]
                self._steps = self._steps[self._anchors[0].step - self._steps[0].index :]

    def _header(self) -> Header:
        return describe(self.optimizer, hash_weights=False)

    @property
    def _good(self) -> bool:
        return self.steering.guard is not None and self.steering.guard.good

    def _rewind(self, args: Any, state: Any, control: Any) -> None:
        here = self.optimizer.steps
        start = self._anchors[0].step
        guard = self.steering.guard
        climbed, waited = (False, 0) if guard is None else (guard.climbed, guard.waited + 1)
        target = self._anchors[-1].step if climbed else max(start, here - max(self._row, waited) - BEFORE)
        anchor = next(a for a in reversed(self._anchors) if a.step <= target)
        header = replace(self._header(), first=start, rule_state=self._anchors[0].rule_state)
        recorded = self.recording is not None and args.should_save
        if recorded:
            self.recording.close()  # type: ignore[union-attr]
        rewind(self.optimizer, TrajectoryLog(header, tuple(self._steps)), target, anchor)
        self._steps = self._steps[: target - start]
        self._anchors = [a for a in self._anchors if a.step <= target]
        self._row = 0
        self.steering.rewound(target)
        self.rewinds.append((here, target))
        if recorded:
            self.recording.open(args)  # type: ignore[union-attr]
        logger.warning("rewound from step %d to step %d; learning rate x %g", here, target, self.steering.scale)
