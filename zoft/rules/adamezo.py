"""Adam whose moments of every weight are drawn anew from a list of the last gradients."""

from __future__ import annotations

from collections.abc import Sequence

from zoft.backends import Move, WindowedMove
from zoft.directions import Direction, SmallWeights
from zoft.errors import UsageError
from zoft.estimate import Step
from zoft.rules.base import Rule, State
from zoft.rules.moments import check_moments, check_not_one_sign
from zoft.rules.window import check_window, recall, remember


class AdaMeZO(Rule):
    """w <- w - lr m / (sqrt(v) + delta),  m = sum_k beta^k g_{t-k} / sum_k beta^k,  v = sum_k beta2^k g_{t-k}^2 / sum_k beta2^k

    element by element, k over the last `window` steps (Cai, Chen & Zhu 2026, "AdaMeZO"). Moments are divided by the weights
    within the window, so that its length brings no factor. Nothing beside the list is kept; time: an update draws every
    remembered direction, window x q instead of q. A window as long as the run makes it `full_adam`, a window of 1 the sign
    of g, element by element, up to delta.

    A weight moves by at most lr sqrt(sum_k a_k^2 / b_k) (Cauchy and Schwarz; a, b the two sets of weights), whatever was
    drawn. As for `full_adam`, one dense direction of signs makes all elements of v one number: refused, `adam` is that rule.

    The learning rate is in units of the weights.
    """

    name = "adamezo"
    single = True
    sums = False

    def __init__(self, beta: float = 0.9, beta2: float = 0.99, delta: float = 1e-8, window: int | None = None) -> None:
        """
        Args:
            beta: ratio of the weights of two consecutive gradients in m, in [0, 1).
            beta2: the same of their squares in v.
            delta: added to the root of v, in loss per unit length; > 0.
            window: remembered steps; None: as many as make beta^window <= 1 %.

        Raises:
            UsageError: a value out of range.
        """
        check_moments(beta, beta2, delta)
        self.beta, self.beta2, self.delta = beta, beta2, delta
        self.window = check_window(window, beta)

    def init(self) -> State:
        return {"window": []}

    def check(self, directions: Sequence[Direction]) -> None:
        check_not_one_sign(self.name, "adam", directions)
        if isinstance(directions[0].form, SmallWeights):
            raise UsageError(
                "zo_rule=adamezo makes one displacement of all directions that it remembers, in which zo_shape=small_weights "
                "cannot be told from the rest; take zo_shape=random_mask or dense, or zo_rule=adam"
            )

    def move(self, state: State, step: Step) -> tuple[Move, State]:
        window = [*state["window"], remember(step.estimate)][-self.window :]
        gradients = [recall(gradient) for gradient in window]
        move = WindowedMove(
            tuple(term for terms in gradients for term in terms),
            factor=-step.lr,
            counts=tuple(map(len, gradients)),
            first=shares(self.beta, len(window)),
            second=shares(self.beta2, len(window)),
            delta=self.delta,
        )
        return move, {"window": window[-(self.window - 1) :] if self.window > 1 else []}

    def settings(self) -> State:
        return {
            "name": self.name,
            "beta": self.beta,
            "beta2": self.beta2,
            "delta": self.delta,
            "window": self.window,
        }


def shares(beta: float, count: int) -> tuple[float, ...]:
    """beta^k / sum beta^k for k = count - 1 ... 0: of the oldest gradient first.

    >>> shares(0.5, 2), shares(0.0, 2)
    ((0.3333333333333333, 0.6666666666666666), (0.0, 1.0))
    """
    weights = [beta**age for age in reversed(range(count))]
    whole = sum(weights)
    return tuple(weight / whole for weight in weights)
