"""Directions on a sphere: normals scaled to the length sqrt(d), so that every step looks equally far.

    z~ = s z,   s = sqrt(d) / ||z||,   z normal over the d weights that move

E[z~ z~'] = I, and fourth moments are d / (d + 2) of the Gaussian's (docs/math.md, E7); of signs s is exactly 1. ||z|| is over
all weights, so z is drawn once more before a step's first loss: a pass beside those of the losses and of the update. The
record holds c s for z, so that replay needs none. For d weights s is 1 +- 1/sqrt(2 d).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from zoft.backends import Point, Term
from zoft.directions import Direction
from zoft.estimate import Estimate
from zoft.space import ParameterSpace


class Sphere:
    """Between an estimator, which knows nothing of lengths, and the weights."""

    def __init__(self, space: ParameterSpace) -> None:
        self._space = space
        self._known: tuple[tuple[Direction, ...], tuple[float, ...]] = ((), ())  # of the last step that was asked for

    def scales(self, directions: tuple[Direction, ...]) -> tuple[float, ...]:
        """s of each direction; measured once a step."""
        if self._known[0] != directions:
            found = (self._space.length_of(direction) for direction in directions)
            self._known = directions, tuple(math.sqrt(count / square) for square, count in found)
        return self._known[1]

    def stretched(self, population: Sequence[Point], directions: tuple[Direction, ...]) -> tuple[Point, ...]:
        """The points of an estimator, along z~."""
        by = dict(zip(directions, self.scales(directions), strict=True))
        return tuple(
            tuple(Term(term.direction, term.scale * by[term.direction]) for term in point) for point in population
        )

    def spent(self, estimate: Estimate) -> Estimate:
        """sum c_j z~_j as multiples of z_j."""
        scales = self.scales(estimate.directions)
        return replace(estimate, coefficients=tuple(c * s for c, s in zip(estimate.coefficients, scales, strict=True)))
