"""Forward differences: one loss per direction, and the loss at the weights shared by all."""

from __future__ import annotations

from collections.abc import Sequence

from zoft.backends import Point, Term
from zoft.directions import Direction
from zoft.estimators.base import Estimator


class OneSided(Estimator):
    """g = (1/q) sum_j [L(w + eps z_j) - L(w)] / eps z_j

    q + 1 forwards. The slope is p + (eps/2) z'Hz + O(eps^2): the curvature is even in z, so for a law symmetric about
    zero it leaves no bias (the mean is that of the two-point estimate) but noise, eps^2/4 E[(z'Hz)^2] in the square of
    each slope, which does not shrink with the gradient. On a quadratic this noise does not depend on w, so the step
    size at which descent becomes unstable is the two-point estimate's; where it settles is higher. (Nesterov & Spokoiny
    2017, section 5; Duchi et al. 2015; docs/methods.md.)

    >>> OneSided(eps=0.5).coefficients([1.0, 3.0, 0.0])
    (2.0, -1.0)
    """

    name = "one_sided"

    @property
    def lean(self) -> float:
        return self.eps / 2.0

    def population(self, directions: Sequence[Direction]) -> tuple[Point, ...]:
        return ((), *((Term(direction, self.eps),) for direction in directions))

    def slopes(self, losses: Sequence[float]) -> tuple[float, ...]:
        return tuple((loss - losses[0]) / self.eps for loss in losses[1:])
