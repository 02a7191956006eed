"""The contract of an estimator: which losses it wants, and what it makes of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from zoft.backends import Point
from zoft.directions import Direction
from zoft.estimate import Estimate


class Estimator(ABC):
    """Losses at a population of points in, an Estimate out. It never sees a model, a batch or a gradient."""

    name: str

    @abstractmethod
    def population(self, directions: Sequence[Direction]) -> tuple[Point, ...]:
        """The points at which the losses of one step are taken, in order."""

    @abstractmethod
    def estimate(self, directions: Sequence[Direction], losses: Sequence[float]) -> Estimate:
        """The gradient estimate from the losses at `population(directions)`, in that order."""
