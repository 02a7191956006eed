"""The contract of an estimator: which losses it wants, and what it makes of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from zoft.backends import Point
from zoft.directions import Direction
from zoft.errors import UsageError
from zoft.estimate import Estimate
from zoft.exact import mean
from zoft.limits import check_positive


class Estimator(ABC):
    """Losses at a population of points in, an Estimate out. It never sees a model, a batch or a gradient.

    The estimate is g = sum_j c_j z_j. Unless `normalised`, c_j = p_j / q with p_j the `slopes`; a normalised estimator
    makes other coefficients of the losses, and the monitor compares them with the slopes to learn how far a step goes.
    """

    name: str
    least = 1  # directions that it needs
    normalised = False  # the coefficients are not slopes / q
    curved = False  # estimates hold curvatures

    def __init__(self, eps: float) -> None:
        """
        Args:
            eps: the smoothing radius, in units of the weights.

        Raises:
            UsageError: eps is not a positive number.
        """
        check_positive("eps", eps)
        self.eps = float(eps)

    @property
    def lean(self) -> float:
        """Slopes are z'grad L + lean * z'Hz + O(eps^2) [length]: 0 where both sides are seen."""
        return 0.0

    def check(self, directions: int) -> None:
        """Raises UsageError where so few directions are not enough."""
        if directions < self.least:
            raise UsageError(
                f"zo_estimator={self.name} compares losses with each other and needs zo_directions={self.least} or more, "
                f"but {directions} was given; take more, or zo_estimator=two_point"
            )

    @abstractmethod
    def population(self, directions: Sequence[Direction]) -> tuple[Point, ...]:
        """The points at which the losses of one step are taken, in order."""

    @abstractmethod
    def slopes(self, losses: Sequence[float]) -> tuple[float, ...]:
        """p_j [q], loss per unit length along z_j, from the losses at the population."""

    def coefficients(self, losses: Sequence[float]) -> tuple[float, ...]:
        """c_j [q]."""
        slopes = self.slopes(losses)
        return tuple(p / len(slopes) for p in slopes)

    def curvatures(self, losses: Sequence[float]) -> tuple[float, ...]:
        """z_j'Hz_j [q], loss per unit length^2, where the losses tell them; else nothing."""
        del losses
        return ()

    def estimate(self, directions: Sequence[Direction], losses: Sequence[float]) -> Estimate:
        """The gradient estimate from the losses at `population(directions)`, in that order."""
        return Estimate(tuple(directions), self.coefficients(losses), mean(losses), self.curvatures(losses))

    def settings(self) -> dict[str, Any]:
        """From which `zoft.estimators.estimator` makes the same one again: the log and checkpoints hold it."""
        return {"name": self.name, "eps": self.eps}
