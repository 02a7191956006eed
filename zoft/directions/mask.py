"""Sparse directions: a share of each matrix's weights moves, the others stand still. Vectors (biases, norms) move whole.

    random_mask      z = m * u,   m_i = 1 where 16 bits at the address of i are below 2^16 (1 - sparsity), else 0
    small_weights    z = m * u,   m_i = 1 where |w_i| <= t,   t the (1 - sparsity) quantile of the matrix's |w| at the start

u is a dense direction and nothing is divided by the share: the estimate is that of the masked gradient, its mean over draws
of u is m * grad L, and what bounds a step is the trace of the Hessian's masked part. The random mask stays for `refresh`
steps; it has the address of its period's first step, so it is never stored, and all directions of a step share it. Small
weights are found where they are read and written: nothing is stored but one number a matrix, which the log's header holds,
and a weight that grew beyond t stands still from then on, weight decay included. (Liu et al. 2024, "Sparse MeZO", for
small weights and for thresholds that are fixed at the start.)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from zoft.directions.address import Window, block_counters, counters
from zoft.directions.philox import philox4x32
from zoft.errors import UsageError

if TYPE_CHECKING:
    from zoft.directions.direction import Direction

LANES = 8  # rows that one Philox call serves with 16 bits each


@dataclass(frozen=True, slots=True)
class Mask:
    """What both have."""

    sparsity: float  # the share of a matrix's weights that stands still
    shape: ClassVar[str]

    @property
    def density(self) -> float:
        """The share that moves."""
        return 1.0 - self.sparsity

    def _check(self) -> None:
        share = self.sparsity
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0.0 <= share < 1.0:
            raise UsageError(
                f"zo_sparsity is the share of a matrix that stands still and must lie in [0, 1), not {share!r}"
            )

    def tail(self, matrices: Iterable[tuple[int, int]]) -> float | None:
        """None: among the weights that move directions are dense, with the closed forms of dense ones."""
        del matrices
        return None


@dataclass(frozen=True, slots=True)
class SmallWeights(Mask):
    """Weights of a matrix move while they are at most a threshold. The parameter space knows it; z itself is dense.

    Raises:
        UsageError: a share outside [0, 1).
    """

    shape: ClassVar[str] = "small_weights"

    def __post_init__(self) -> None:
        self._check()

    def plain(self) -> list[Any]:
        """For JSON."""
        return [self.shape, self.sparsity]


@dataclass(frozen=True, slots=True)
class RandomMask(Mask):
    """A share of each matrix's weights, drawn anew every `refresh` steps.

    Raises:
        UsageError: a share outside [0, 1), or a period below 1.
    """

    refresh: int = 1
    shape: ClassVar[str] = "random_mask"

    def __post_init__(self) -> None:
        self._check()
        if isinstance(self.refresh, bool) or not isinstance(self.refresh, int) or self.refresh < 1:
            raise UsageError(f"zo_refresh must be a whole number >= 1, not {self.refresh!r}")

    def plain(self) -> list[Any]:
        """For JSON."""
        return [self.shape, self.sparsity, self.refresh]


def kept(direction: Direction, window: Window, device: torch.device) -> torch.Tensor:
    """The random mask m of a direction over a window, bool [rows, columns]."""
    tag, key = _address(direction)
    return sixteen_bits(window, tag, key, device) < _limit(direction)


def kept_rows(direction: Direction, window: Window, rows: torch.Tensor) -> torch.Tensor:
    """The same on single rows [n] int64, counted from the window's first: bool [n, columns]."""
    tag, key = _address(direction)
    row = window.row + rows
    words = torch.stack(philox4x32(block_counters(window, row // LANES, tag), key))
    lane = (row % LANES)[:, None]
    word = words.gather(0, (lane // 2).expand(words.shape[1:])[None])[0]
    return ((word >> (16 * (lane % 2))) & 0xFFFF) < _limit(direction)


def sixteen_bits(window: Window, tag: int, key: tuple[int, int], device: torch.device) -> torch.Tensor:
    """16 uniform bits for every element of `window`, int64 [rows, columns] in [0, 65536).

    Lane l of a block (row % 8) is half-word l % 2 (low first) of word l // 2.
    """
    words, offset = counters(window, tag, LANES, device)
    halves = [half for word in philox4x32(words, key) for half in (word & 0xFFFF, word >> 16)]
    return torch.stack(halves, dim=1).reshape(-1, window.columns)[offset : offset + window.rows]


def _address(direction: Direction) -> tuple[int, tuple[int, int]]:
    """(tag of the counter, key): of the first step of the period, one for all directions in it."""
    from zoft.directions.direction import Domain

    assert isinstance(direction.form, RandomMask), "only a random mask has an address"
    return int(Domain.MASK) << 12, (direction.seed, direction.step - direction.step % direction.form.refresh)


def _limit(direction: Direction) -> int:
    assert isinstance(direction.form, RandomMask)
    return max(1, round(direction.form.density * 65536))
