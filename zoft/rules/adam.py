"""Adam with one second moment for all weights."""

from __future__ import annotations

import math

from zoft.backends import BufferedMove, Move, Term
from zoft.estimate import Step
from zoft.rules.base import Rule, State
from zoft.rules.moments import check_moments
from zoft.rules.window import check_buffer, check_window, gradient, remember, weighted


class Adam(Rule):
    """m <- beta m + (1 - beta) g;  v <- beta2 v + (1 - beta2) p^2;  w <- w - lr m^ / (sqrt(v^) + delta)

    with p^2 = sum_j c_j^2 and bias-corrected m^ = m / (1 - beta^t), v^ = v / (1 - beta2^t) after t spent steps
    (Kingma & Ba 2015). All elements of a zeroth-order gradient g = sum_j c_j z_j have the same mean square over the
    draws of z, namely p^2, so one scalar replaces Adam's tensor of second moments: v is exact, not an approximation
    of a per-weight one that one direction could never resolve. m is kept as a list (see `zoft.rules.window`); there
    the tail that a gradient spends when it leaves the window uses the learning rate and v of that step.

    The learning rate is in units of the weights: with a steady gradient every weight moves by about lr a step.
    """

    name = "adam"
    single = True

    def __init__(
        self,
        beta: float = 0.9,
        beta2: float = 0.99,
        delta: float = 1e-8,
        window: int | None = None,
        buffer: str = "window",
    ) -> None:
        """
        Args:
            beta: share of m that survives a step, in [0, 1).
            beta2: share of v that survives a step, in [0, 1).
            delta: added to the root of v, in loss per unit length; > 0.
            window: remembered steps; None: as many as make beta^window <= 1 %.
            buffer: window, or full: m itself, as large as the weights. v stays one scalar.

        Raises:
            UsageError: a value out of range.
        """
        check_moments(beta, beta2, delta)
        self.beta, self.beta2, self.delta = beta, beta2, delta
        self.buffers = check_buffer(buffer, window)
        self.window = None if self.buffers else check_window(window, beta)

    def init(self) -> State:
        return {"v": 0.0, "spent": 0} if self.buffers else {"window": [], "v": 0.0, "spent": 0}

    def move(self, state: State, step: Step) -> tuple[Move, State]:
        factor, after = self._factor(state, step)
        if self.window is None:
            return BufferedMove(gradient(step.estimate), keep=self.beta, factor=factor), after
        pairs, window = weighted([*state["window"], remember(step.estimate)], self.beta, self.window)
        return Move(tuple(Term(direction, factor * m) for direction, m in pairs)), {**after, "window": window}

    def _factor(self, state: State, step: Step) -> tuple[float, State]:
        """What stands before sum_k beta^k g_{t-k}, and the scalars of the state after this step."""
        spent = state["spent"] + 1
        square = math.fsum(c * c for c in step.estimate.coefficients)
        v = self.beta2 * state["v"] + (1.0 - self.beta2) * square
        root = math.sqrt(v / (1.0 - self.beta2**spent))
        factor = -step.lr * (1.0 - self.beta) / (1.0 - self.beta**spent) / (root + self.delta)
        return factor, {"v": v, "spent": spent}

    def settings(self) -> State:
        return {
            "name": self.name,
            "beta": self.beta,
            "beta2": self.beta2,
            "delta": self.delta,
            "window": self.window,
            "buffer": "full" if self.buffers else "window",
        }
