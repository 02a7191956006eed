"""Zeroth-order SGD."""

from __future__ import annotations

from zoft.backends import Move
from zoft.estimate import Step
from zoft.rules.base import Rule, State
from zoft.rules.window import gradient


class SGD(Rule):
    """w <- w - lr g,  g = sum_j c_j z_j.  (Spall 1992; Malladi et al. 2023, "MeZO", algorithm 1.) No state."""

    name = "sgd"

    def move(self, state: State, step: Step) -> tuple[Move, State]:
        return Move(gradient(step.estimate, -step.lr)), state
