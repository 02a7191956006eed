"""Two-point slopes with the curvature along each direction."""

from __future__ import annotations

from collections.abc import Sequence

from zoft.backends import Point
from zoft.directions import Direction
from zoft.estimators.two_point import TwoPoint


class ThreePoint(TwoPoint):
    """g as of two points, and h_j = [L(w + eps z_j) + L(w - eps z_j) - 2 L(w)] / eps^2 = z_j'Hz_j + O(eps^2)

    2 q + 1 forwards: the loss at w is shared by all directions. For rules that read curvatures (`zoft.rules.hizoo`).

    >>> ThreePoint(eps=0.5).coefficients([1.0, 3.0, 0.0]), ThreePoint(eps=0.5).curvatures([1.0, 3.0, 0.0])
    ((3.0,), (4.0,))
    """

    name = "three_point"
    curved = True

    def population(self, directions: Sequence[Direction]) -> tuple[Point, ...]:
        return ((), *super().population(directions))

    def slopes(self, losses: Sequence[float]) -> tuple[float, ...]:
        return super().slopes(losses[1:])

    def curvatures(self, losses: Sequence[float]) -> tuple[float, ...]:
        pairs = zip(losses[1::2], losses[2::2], strict=True)
        return tuple(((plus - losses[0]) + (minus - losses[0])) / (self.eps * self.eps) for plus, minus in pairs)
