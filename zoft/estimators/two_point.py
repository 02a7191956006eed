"""The two-point (antithetic) estimator, averaged over q directions."""

from __future__ import annotations

from collections.abc import Sequence

from zoft.backends import Point, Term
from zoft.directions import Direction
from zoft.estimators.base import Estimator


class TwoPoint(Estimator):
    """g = (1/q) sum_j [L(w + eps z_j) - L(w - eps z_j)] / (2 eps) z_j

    Unbiased for the gradient of E[L(w + eps z)], the loss smoothed over radius eps, when z is Gaussian (Stein's identity).
    With Rademacher z element i of the mean is off that gradient by -(eps^2 / 3) d^3 L / dw_i^3 + O(eps^4). On a
    quadratic both are the gradient itself. 2 q forwards. (Spall 1992, SPSA; Nesterov & Spokoiny 2017;
    docs/math.md, E1.)

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
