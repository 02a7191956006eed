"""Between the optimizer and whoever may hold it back: which losses are wanted, what was seen, what follows.

Plain numbers only: no tensors, no directions. Every rank sees the same gathered numbers, so all decide the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

ProbePoint = tuple[tuple[int, float], ...]  # w + sum_k scale_k * probe[index_k]; () is w itself


@dataclass(frozen=True, slots=True)
class Request:
    """Losses wanted on this step's batch besides the estimator's own; no weight is written for them."""

    points: tuple[ProbePoint, ...] = ()

    @property
    def probes(self) -> int:
        """How many probe directions the points name.

        >>> Request(points=((), ((0, 0.1),), ((0, 0.1), (2, -0.1)))).probes
        3
        """
        return 1 + max((index for point in self.points for index, _ in point), default=-1)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one step saw, over all micro-batches and ranks."""

    step: int
    lr: float  # asked for, by the schedule
    loss: float  # mean over the population
    slopes: tuple[float, ...]  # [q] p_j, the projected gradient of the whole batch [loss / length]
    halves: tuple[tuple[float, ...], tuple[float, ...]] | None = None  # [2][q] slopes of two halves of the batch
    pairs: tuple[tuple[float, float], ...] = ()  # [q] losses at +eps z_j and -eps z_j; empty for other estimators
    eps: float = 0.0  # of those pairs [length]
    points: tuple[float, ...] = ()  # losses at the request's points, in its order
    forwards: int = 0  # points that the estimator took; 0: not said
    block: int = 0  # of layers, that the step moves
    spent: tuple[float, ...] = ()  # [q] q c_j, where the coefficients c_j are not slopes / q; empty: the slopes


@dataclass(frozen=True, slots=True)
class Decision:
    """What may be spent."""

    lr: float
    capped: bool = False  # lr is lower than what was asked for
    refused: bool = False  # nothing may be spent on this step


class Governor(Protocol):
    """Asked before the losses of a step are taken, and again before the step is spent."""

    def request(self, step: int) -> Request:
        """The extra losses wanted in step `step`."""
        ...

    def decide(self, evidence: Evidence) -> Decision:
        """The learning rate to use."""
        ...

    def metrics(self) -> dict[str, float]:
        """What goes into the training log; finite numbers only."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Plain values: it goes into the optimizer's checkpoint."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        ...
