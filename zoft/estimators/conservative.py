"""Two-point slopes that are spent only where one of their ends lies lower than the middle."""

from __future__ import annotations

from collections.abc import Sequence

from zoft.backends import Point
from zoft.directions import Direction
from zoft.estimators.two_point import TwoPoint


class Conservative(TwoPoint):
    """g = (1/q) sum_j a_j p_j z_j,   p_j of two points,   a_j = 1 where min(L_j+, L_j-) < L(w), else 0

    2 q + 1 forwards. Of the three points w - eps z, w, w + eps z the lowest is accepted: where it is the middle one, nothing
    moves along z. On a quadratic that is |p| <= eps z'Hz / 2, a slope that the curvature undoes within eps. (After Zhang et al.
    2024, "ZO-SGD-Cons", which compares w - lr g, w, w + lr g instead: points that follow from the losses of the same step.)

    Bias: small slopes are left out, E[g] = E[p z; |p| > eps z'Hz / 2] on a quadratic; none on a linear loss. It shrinks with
    eps, and with the curvature.

    >>> Conservative(eps=0.5).coefficients([2.0, 3.0, 1.0]), Conservative(eps=0.5).coefficients([2.0, 3.0, 2.5])
    ((2.0,), (0.0,))
    """

    name = "conservative"

    def population(self, directions: Sequence[Direction]) -> tuple[Point, ...]:
        return ((), *super().population(directions))

    def slopes(self, losses: Sequence[float]) -> tuple[float, ...]:
        return super().slopes(losses[1:])

    def coefficients(self, losses: Sequence[float]) -> tuple[float, ...]:
        middle, ends, slopes = losses[0], losses[1:], self.slopes(losses)
        lowest = [min(pair) for pair in zip(ends[0::2], ends[1::2], strict=True)]
        # a loss that is not a number is accepted, so that the step is seen to be broken
        return tuple(0.0 if low >= middle else p / len(slopes) for low, p in zip(lowest, slopes, strict=True))
