"""The two-point (antithetic) estimator, averaged over q directions."""

from __future__ import annotations

import math
from collections.abc import Sequence

from zoft.backends import Point, Term
from zoft.directions import Direction
from zoft.errors import UsageError
from zoft.estimate import Estimate
from zoft.estimators.base import Estimator
from zoft.exact import mean


class TwoPoint(Estimator):
    """g = (1/q) sum_j [L(w + eps z_j) - L(w - eps z_j)] / (2 eps) z_j

    Unbiased for the gradient of the loss smoothed over radius eps when the elements of z are independent with mean 0 and
    variance 1; on a quadratic, for the gradient itself. Two forwards per direction. (Spall 1992, SPSA; Nesterov & Spokoiny
    2017; docs/math.md, two-point estimate.)

    >>> from zoft.directions import DirectionSource
    >>> directions = DirectionSource(seed=0).at(step=0)
    >>> TwoPoint(eps=0.5).estimate(directions, [3.0, 1.0]).coefficients
    (2.0,)
    """

    name = "two_point"

    def __init__(self, eps: float) -> None:
        """
        Args:
            eps: the smoothing radius, in units of the weights.

        Raises:
            UsageError: eps is not a positive number.
        """
        if not (eps > 0 and math.isfinite(eps)):
            raise UsageError(f"zo_eps is the radius of the perturbation and must be a positive number, not {eps!r}")
        self.eps = eps

    def population(self, directions: Sequence[Direction]) -> tuple[Point, ...]:
        return tuple((Term(direction, sign * self.eps),) for direction in directions for sign in (1.0, -1.0))

    def estimate(self, directions: Sequence[Direction], losses: Sequence[float]) -> Estimate:
        plus, minus = losses[0::2], losses[1::2]
        width = 2.0 * self.eps * len(directions)
        return Estimate(
            directions=tuple(directions),
            coefficients=tuple((p - m) / width for p, m in zip(plus, minus, strict=True)),
            loss=mean(losses),
        )
