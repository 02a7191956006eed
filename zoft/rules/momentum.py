"""Heavy-ball momentum over a list of directions."""

from __future__ import annotations

from zoft.backends import Term
from zoft.estimate import Step
from zoft.limits import check_share
from zoft.rules.base import Rule, State
from zoft.rules.window import check_buffer, check_window, gradient, remember, weighted


class Momentum(Rule):
    """m <- beta m + g;  w <- w - lr m.  (Polyak 1964.)

    The state is the list of the last `window` gradients, not a tensor (see `zoft.rules.window`). Exact: the direction
    of every term; the total displacement, for a constant learning rate. Approximate: a gradient's last beta^window (1
    % by default) is spent when it leaves the window and with that step's learning rate. Skipped steps do not age the
    window. Time: one update draws `window` directions instead of one.

    >>> Momentum(beta=0.5, window=3).settings()
    {'name': 'momentum', 'beta': 0.5, 'window': 3, 'buffer': 'window'}
    """

    name = "momentum"
    single = True

    def __init__(self, beta: float = 0.9, window: int | None = None, buffer: str = "window") -> None:
        """
        Args:
            beta: share of m that survives a step, in [0, 1).
            window: remembered steps; None: as many as make beta^window <= 1 %.
            buffer: window, or full: m itself, as large as the weights.

        Raises:
            UsageError: beta or window out of range.
        """
        check_share("zo_momentum", beta)
        self.beta = beta
        self.buffered = check_buffer(buffer, window)
        self.window = None if self.buffered else check_window(window, beta)

    def init(self) -> State:
        return {} if self.buffered else {"window": []}

    def through_buffer(self, state: State, step: Step) -> tuple[tuple[Term, ...], float, float, State]:
        return gradient(step.estimate), self.beta, -step.lr, state

    def update(self, state: State, step: Step) -> tuple[tuple[Term, ...], State]:
        assert self.window is not None, "a full buffer is moved by through_buffer"
        pairs, window = weighted([*state["window"], remember(step.estimate)], self.beta, self.window)
        return tuple(Term(direction, -step.lr * m) for direction, m in pairs), {"window": window}

    def settings(self) -> State:
        return {
            "name": self.name,
            "beta": self.beta,
            "window": self.window,
            "buffer": "full" if self.buffered else "window",
        }
