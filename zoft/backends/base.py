"""The contract of a backend: what each op computes, to the last bit, whatever computes it."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from zoft.directions import Direction, Window


class Rounding(enum.StrEnum):
    """How a result that was computed in float32 becomes a stored 16-bit weight (no effect on float32 and float64).

    `residual8` and `residual16` keep a bfloat16 weight and 8 or 16 further bits of its float32 value beside it:
    float32 bits = (high << 16) + (low << 8 or low), with high = (bits + 0x8000) >> 16, so `high` is the nearest bfloat16
    (halves away from zero) and `low` is a signed remainder. `residual16` is float32 arithmetic; `residual8` rounds the
    remaining 8 bits stochastically.
    """

    NEAREST = "nearest"
    STOCHASTIC = "stochastic"
    RESIDUAL8 = "residual8"
    RESIDUAL16 = "residual16"

    @property
    def residual_dtype(self) -> torch.dtype | None:
        """The integer type that holds the low-order bits; None without them."""
        return {Rounding.RESIDUAL8: torch.int8, Rounding.RESIDUAL16: torch.int16}.get(self)


@dataclass(frozen=True, slots=True)
class Term:
    """scale * z."""

    direction: Direction
    scale: float


Point = tuple[Term, ...]  # a displacement from w; () is w itself


@dataclass(frozen=True, slots=True)
class Move:
    """x <- round(a x + scale_1 z_1 + scale_2 z_2 + ...), the one kind of write there is.

    Scalars are rounded to the accumulator's type (float32; float64 for float64 weights); products and sums are rounded
    one at a time in the order of `terms`.
    """

    terms: tuple[Term, ...]
    decay: float = 1.0  # a, for weights that decay; others take a = 1
    rounding_key: tuple[int, int] = (0, 0)  # (run seed, step) of the rounding bits


@dataclass(frozen=True, slots=True)
class Target:
    """Where a write goes: one parameter, or a shard or panel of it."""

    weight: torch.Tensor  # read, and written unless `out` is given
    window: Window  # the weight's place in the whole parameter; weight.numel() == window.rows * window.columns
    decays: bool = False  # does Move.decay apply
    residual: torch.Tensor | None = None  # int8 or int16, same shape: low-order bits, read and written
    out: torch.Tensor | None = None  # write here instead, leaving `weight` (and `residual`) as they are


class Backend(ABC):
    """The ops of zoft. Every backend returns the bits of `zoft.backends.reference`."""

    name: str

    @abstractmethod
    def axpby_(self, target: Target, moves: Sequence[Move], rounding: Rounding = Rounding.NEAREST) -> None:
        """Apply `moves` in order to one target, rounding to storage after each.

        The result equals that of one pass over the weights per move, so a backend may fuse them into one pass.
        `target.out`, where given, has the weight's shape and dtype.

        Raises:
            UsageError: the dtype, layout or rounding cannot be handled; the message names it.
        """

    def sweep_(self, targets: Sequence[Target], moves: Sequence[Move], rounding: Rounding = Rounding.NEAREST) -> None:
        """`axpby_` over many targets: all the parameters of a model."""
        for target in targets:
            self.axpby_(target, moves, rounding)
