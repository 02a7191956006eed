"""The losses of one step, added up over micro-batches and ranks: the whole batch, and two halves of it.

Losses are summed exactly (math.fsum) before one division, so W ranks with one micro-batch each and one rank with W
micro-batches get the same bits.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from zoft.distributed import gather
from zoft.errors import UsageError
from zoft.exact import fsum, mean
from zoft.spread import Spread

WHOLE = Spread()
Taken = tuple[float, float, float]  # mean loss of a micro-batch; of its even examples, of its odd ones (nan: not known)


NARROW_LOSS = (
    "the loss came as {}, which rounds away what two nearby points differ by; compute it in float32, as in "
    "cross_entropy(logits.float(), labels)"
)


@dataclass(frozen=True, slots=True)
class Part:
    """One micro-batch: its losses at the points that are this rank's, and the divisor with which it enters the sum."""

    losses: list[Taken]  # [this rank's points of the population]
    divisor: int | None  # None: the number of micro-batches on all ranks, so that their mean is taken
    asked: tuple[float, ...] = ()  # [this rank's points of the governor]


@dataclass(frozen=True, slots=True)
class Totals:
    """Losses at every point of the population, and at every point asked for, over all micro-batches and ranks."""

    whole: list[float]
    asked: list[float]
    halves: tuple[list[float], list[float]] | None  # None: the batch cannot be split


def taken(value: torch.Tensor | float) -> Taken:
    """What a closure returned: a scalar, or the losses of the examples [B], whose exact mean is the loss.

    Raises:
        UsageError: no number, a tensor of another shape, or no example at all.

    >>> taken(torch.tensor([1.0, 2.0, 5.0]))
    (2.6666666666666665, 3.0, 2.0)
    """
    if isinstance(value, torch.Tensor) and value.dtype in (torch.bfloat16, torch.float16):
        warnings.warn(NARROW_LOSS.format(value.dtype), stacklevel=2)
    if not isinstance(value, torch.Tensor) or value.ndim == 0:
        try:
            return float(value), math.nan, math.nan
        except (TypeError, ValueError):
            raise UsageError(
                f"a closure returns its loss, a number or a tensor, but {type(value).__name__} came"
            ) from None
    if value.ndim > 1 or value.numel() == 0:
        raise UsageError(
            f"a loss is a scalar or one number per example [B], but a tensor of shape {tuple(value.shape)} came"
        )
    examples = value.tolist()
    return mean(examples), mean(examples[0::2]), mean(examples[1::2])


def total(parts: Sequence[Part], points: int, asked: int = 0, spread: Spread = WHOLE, *, split: bool = True) -> Totals:
    """Per point: the sum over the micro-batches of all ranks of loss / divisor.

    Halves: even and odd examples where every micro-batch says them, otherwise even and odd micro-batches where there
    are at least two (counted through all ranks), scaled to the size of the whole.

    On the wire, per micro-batch: 8 bytes for each point of this rank, 24 for those of the population where halves are wanted.

    Args:
        points, asked: of the population and of the governor, on all ranks together.
        spread: which ranks evaluate which of them.
        split: whether halves are wanted.
    """
    kinds = 3 if split else 1
    mine = [value for part in parts for value in _message(part, spread.share(points), spread.share(asked), kinds)]
    ranks = gather(mine)
    micro, length = len(parts), len(mine) // len(parts)
    divisors = [part.divisor or micro * spread.shards for part in parts for _ in range(spread.shards)]

    def column(point: int, kind: int) -> list[float]:
        """Of one point, in the order in which one process would see the micro-batches."""
        owners, place = spread.ranks_of(point, points)
        return [ranks[owner][m * length + place * kinds + kind] for m in range(micro) for owner in owners]

    def extra(point: int) -> float:
        owners, place = spread.ranks_of(point, asked)
        place += spread.share(points) * kinds
        return _weighted([ranks[owner][m * length + place] for m in range(micro) for owner in owners], divisors)

    whole = [_weighted(column(point, 0), divisors) for point in range(points)]
    halves = _halves(column, points, divisors) if split else None
    return Totals(whole, [extra(point) for point in range(asked)], halves)


def _message(part: Part, points: int, asked: int, kinds: int) -> list[float]:
    """What one micro-batch puts on the wire; the same length on all ranks."""
    own = [value for taken in part.losses for value in taken[:kinds]]
    own += [math.nan] * (points * kinds - len(own))
    return [*own, *part.asked, *[math.nan] * (asked - len(part.asked))]


def _halves(
    column: Callable[[int, int], list[float]], points: int, divisors: Sequence[int]
) -> tuple[list[float], list[float]] | None:
    by_example = [[column(point, kind) for point in range(points)] for kind in (1, 2)]
    if not any(math.isnan(value) for half in by_example for values in half for value in values):
        first, second = ([_weighted(values, divisors) for values in half] for half in by_example)
        return first, second
    count = len(divisors)
    if count < 2:
        return None
    halves = []
    for start in (0, 1):
        share = len(range(start, count, 2)) / count
        columns = (column(point, 0)[start::2] for point in range(points))
        halves.append([_weighted(values, divisors[start::2]) / share for values in columns])
    return halves[0], halves[1]


def _weighted(values: Sequence[float], divisors: Sequence[int]) -> float:
    """sum of value / divisor; one division where all divisors are equal."""
    if len(set(divisors)) == 1:
        return fsum(values) / divisors[0]
    return fsum(value / divisor for value, divisor in zip(values, divisors, strict=True))
