"""The currency: a zeroth-order gradient as a short list of (direction, scalar) pairs, and the step that spends it."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from zoft.directions import Direction


@dataclass(frozen=True, slots=True)
class Estimate:
    """The gradient estimate  g = sum_j coefficients[j] * z_j  (docs/math.md, two-point estimate).

    A q-directions average carries its 1/q inside the coefficients.
    """

    directions: tuple[Direction, ...]  # [q]
    coefficients: tuple[float, ...]  # [q] loss per unit length along z
    loss: float  # mean of the evaluated losses: the loss smoothed over the radius
    curvatures: tuple[float, ...] = ()  # [q] z'Hz [loss per unit length^2], of estimators that take the loss at w

    @property
    def finite(self) -> bool:
        """True if every number in it is finite; otherwise nothing may be spent."""
        return all(map(math.isfinite, (self.loss, *self.coefficients, *self.curvatures)))


class Flag(enum.IntFlag):
    """What happened in a step besides the update."""

    NONE = 0
    NONFINITE = 1  # a loss was NaN or infinite: nothing was applied
    GUARDED = 2  # the guard refused the step: nothing was applied
    CAPPED = 4  # the learning rate was lowered by the monitor
    INTERRUPTED = 8  # training stopped before all losses were taken: nothing was applied
    # Where updates of matrices wait (zo_merge_every): before this step all of them were merged into the weights
    MERGED = 16

    @property
    def skipped(self) -> bool:
        return bool(self & (Flag.NONFINITE | Flag.GUARDED | Flag.INTERRUPTED))


@dataclass(frozen=True, slots=True)
class Step:
    """What was spent on the weights in one optimizer step: the record of the trajectory log."""

    index: int  # of the optimizer step, from 0
    estimate: Estimate
    lr: float  # spent, after every cap
    weight_decay: float = 0.0  # decoupled: a = 1 - lr * weight_decay
    flags: Flag = Flag.NONE
    evaluations: int = 1  # micro-batches on this rank's weights: in-place perturbation repeats its sweeps for each
