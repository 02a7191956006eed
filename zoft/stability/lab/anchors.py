"""Back to a good place: guard=rewind in the laboratory, where the learning rate is the thing watched and stays."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from zoft.stability.lab.engine import Engine
from zoft.stability.steering import Steering

EVERY = 200  # steps between copies
KEPT = 5


@dataclass
class Anchor:
    """A copy of what a step changes."""

    step: int
    weights: torch.Tensor  # [d]
    momentum: torch.Tensor  # [d]
    second_moment: tuple[float, int]
    used: bool = False


class Anchors:
    """Call `look` after every step. A rewind puts weights and momentum back and goes on with new directions.

    The count of steps goes on: the steps undone are spent. A copy that did not help is left for the one before it.
    Unlike a Trainer's rewind, whose directions repeat, this one does not halve the learning rate.
    """

    def __init__(self, engine: Engine, steering: Steering) -> None:
        self.engine, self.steering = engine, steering
        self.rewinds: list[tuple[int, int]] = []  # (from step, to the weights of step)
        self._kept = [self._copy()]
        self._next = EVERY  # step of the next copy

    def look(self) -> None:
        """Go back where the guard wants it; otherwise copy a good place now and then."""
        if self.steering.rewind_wanted:
            self._back()
        elif self.engine.steps >= self._next and self.steering.guard is not None and self.steering.guard.good:
            self._kept = [*self._kept, self._copy()][-KEPT:]
            self._next = self.engine.steps + EVERY

    def _copy(self) -> Anchor:
        engine = self.engine
        self.steering.keep(engine.steps)
        moment = (engine._v, engine._spent)
        return Anchor(engine.steps, engine.weights.clone(), engine._momentum.clone(), moment)

    def _back(self) -> None:
        if self._kept[-1].used and len(self._kept) > 1:
            self._kept.pop()
        anchor, engine = self._kept[-1], self.engine
        anchor.used = True
        engine.weights, engine._momentum = anchor.weights.clone(), anchor.momentum.clone()
        engine._v, engine._spent = anchor.second_moment
        self.rewinds.append((engine.steps, anchor.step))
        self._next = engine.steps + EVERY
        self.steering.rewound(anchor.step, shrink=1.0)
