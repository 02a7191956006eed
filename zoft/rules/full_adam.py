"""Adam as published: both moments of every weight."""

from __future__ import annotations

import math
from collections.abc import Sequence

from zoft.backends import AdaptiveMove, Move
from zoft.directions import Direction
from zoft.estimate import Step
from zoft.rules.base import Rule, State
from zoft.rules.moments import check_moments, check_not_one_sign
from zoft.rules.window import gradient


class FullAdam(Rule):
    """m <- beta m + (1 - beta) g;  v <- beta2 v + (1 - beta2) g^2;  w <- w - lr m^ / (sqrt(v^) + delta)

    element by element, with m^ = m / (1 - beta^t), v^ = v / (1 - beta2^t) after t spent steps (Kingma & Ba 2015; Malladi et al.
    2023, "MeZO-Adam"). State: m and v, 8 bytes a weight, and two scalars. Forwards: the estimator's.

    In the mean over normal z, g_i^2 is ||grad L||^2 / q + (1 + 1/q) (dL/dw_i)^2 (E8): the elements of v differ by noise alone
    unless one weight holds a large part of the gradient. `adam` divides all by one number and keeps 4 bytes, or none. With one
    dense direction of signs g_i^2 is c^2 for every i, and the two are one rule: that is refused.

    The learning rate is in units of the weights.
    """

    name = "full_adam"
    single = True
    sums = False
    buffers = ("momentum", "square")

    def __init__(self, beta: float = 0.9, beta2: float = 0.99, delta: float = 1e-8) -> None:
        """
        Args:
            beta: share of m that survives a step, in [0, 1).
            beta2: share of v that survives a step, in [0, 1).
            delta: added to the root of v, in loss per unit length; > 0.

        Raises:
            UsageError: a value out of range.
        """
        check_moments(beta, beta2, delta)
        self.beta, self.beta2, self.delta = beta, beta2, delta

    def init(self) -> State:
        return {"v": 0.0, "spent": 0}

    def check(self, directions: Sequence[Direction]) -> None:
        check_not_one_sign(self.name, "adam zo_momentum_buffer=full", directions)

    def move(self, state: State, step: Step) -> tuple[Move, State]:
        spent = state["spent"] + 1
        mean = self.beta2 * state["v"] + (1.0 - self.beta2) * math.fsum(c * c for c in step.estimate.coefficients)
        move = AdaptiveMove(
            gradient(step.estimate),
            factor=-step.lr * (1.0 - self.beta) / (1.0 - self.beta**spent),
            keep=self.beta,
            keep_square=self.beta2,
            share=1.0 - self.beta2,
            unbias=1.0 / (1.0 - self.beta2**spent),
            delta=self.delta,
        )
        return move, {"v": mean, "spent": spent}  # v: the mean of the tensor over z, for the monitor

    def settings(self) -> State:
        return {"name": self.name, "beta": self.beta, "beta2": self.beta2, "delta": self.delta}
