"""The two-point (antithetic) estimator, averaged over q directions."""

from __future__ import annotations

from collections.abc import Sequence

from zoft.backends import Point, Term
from zoft.directions import Direction
from zoft.estimators.base import Estimator


class TwoPoint(Estimator):
    """g = (1/q) sum_j [L(w + eps z_j) - L(w - eps z_j)] / (2 eps) z_j

    Unbiased for the gradient of the loss smoothed over radius eps when the elements of z are independent with mean 0 and
    variance 1; on a quadratic, for the gradient itself. 2 q forwards. (Spall 1992, SPSA; Nesterov & Spokoiny
    2017; docs/math.md, two-point estimate.)

    >>> from zoft.directions import DirectionSource
    >>> directions = DirectionSource(seed=0).at(step=0)
    >>> TwoPoint(eps=0.5).estimate(directions, [3.0, 1.0]).coefficients
    (2.0,)
    """

    name = "two_point"

    def population(self, directions: Sequence[Direction]) -> tuple[Point, ...]:
        return tuple((Term(direction, sign * self.eps),) for direction in directions for sign in (1.0, -1.0))

    def slopes(self, losses: Sequence[float]) -> tuple[float, ...]:
        return tuple((p - m) / (2.0 * self.eps) for p, m in zip(losses[0::2], losses[1::2], strict=True))
