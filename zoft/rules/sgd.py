"""Zeroth-order SGD."""

from __future__ import annotations

from zoft.backends import Term
from zoft.estimate import Step
from zoft.rules.base import Rule, State


class SGD(Rule):
    """w <- w - lr g,  g = sum_j c_j z_j.  (Spall 1992; Malladi et al. 2023, "MeZO", algorithm 1.) No state."""

    name = "sgd"

    def update(self, state: State, step: Step) -> tuple[tuple[Term, ...], State]:
        pairs = zip(step.estimate.directions, step.estimate.coefficients, strict=True)
        return tuple(Term(direction, -step.lr * coefficient) for direction, coefficient in pairs), state
