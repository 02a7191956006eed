"""Heavy-ball momentum over a list of directions."""

from __future__ import annotations

from zoft.backends import BufferedMove, Move, Term
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
        self.buffers = check_buffer(buffer, window)
        self.window = None if self.buffers else check_window(window, beta)

    def init(self) -> State:
        return {} if self.buffers else {"window": []}

    def move(self, state: State, step: Step) -> tuple[Move, State]:
        if self.window is None:
            return BufferedMove(gradient(step.estimate), keep=self.beta, factor=-step.lr), state
        pairs, window = weighted([*state["window"], remember(step.estimate)], self.beta, self.window)
        return Move(tuple(Term(direction, -step.lr * m) for direction, m in pairs)), {"window": window}

    def settings(self) -> State:
        return {
            "name": self.name,
            "beta": self.beta,
            "window": self.window,
            "buffer": "full" if self.buffers else "window",
        }
