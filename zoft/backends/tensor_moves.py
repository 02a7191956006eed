"""Moves that are no sum of multiples of directions: their displacement is made of tensors, panel by panel.

Plain torch on any device, element by element: products, sums, quotients and roots are each rounded once, as IEEE asks,
so every device gets the same bits. Directions are drawn by the backend at hand.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import torch

from zoft.backends.base import Backend, Move, Point, Rounding, Target, wide
from zoft.backends.reference import add_, scalar
from zoft.directions import Window
from zoft.directions.roots import root


@dataclass(frozen=True, slots=True)
class TensorMove(Move, ABC):
    """What a rule does with tensors. `terms` are the directions that it draws."""

    buffers: ClassVar[tuple[str, ...]] = ()  # of the space, as large as the weights, in the accumulator's type
    factor: float = 1.0  # of the displacement

    @abstractmethod
    def spend_(self, backend: Backend, target: Target, buffers: Sequence[torch.Tensor], rounding: Rounding) -> None:
        """Apply the move to one target, its `buffers` included: contiguous, of the weight's shape."""


@dataclass(frozen=True, slots=True)
class BufferedMove(TensorMove):
    """m <- keep m + scale_1 z_1 + ..., then x <- round(a x + factor m)."""

    buffers: ClassVar[tuple[str, ...]] = ("momentum",)
    keep: float = 0.0

    def spend_(self, backend: Backend, target: Target, buffers: Sequence[torch.Tensor], rounding: Rounding) -> None:
        (m,) = buffers
        backend.axpby_(Target(m, target.window, decays=True), [Move(self.terms, self.keep)])
        seen, factor = m.view(target.window.shape), scalar(self.factor, m)
        add_(target, lambda rows: seen[rows] * factor, self, rounding)


@dataclass(frozen=True, slots=True)
class AdaptiveMove(TensorMove):
    """m <- keep m + g,  v <- keep_square v + share g^2,  x <- round(a x + factor m / (sqrt(unbias v) + delta))

    g: the sum of the terms, from zero.
    """

    buffers: ClassVar[tuple[str, ...]] = ("momentum", "square")
    keep: float = 0.0
    keep_square: float = 0.0
    share: float = 1.0
    unbias: float = 1.0
    delta: float = 0.0

    def spend_(self, backend: Backend, target: Target, buffers: Sequence[torch.Tensor], rounding: Rounding) -> None:
        shape = target.window.shape
        m, v = (buffer.view(shape) for buffer in buffers)

        def displacement(rows: slice) -> torch.Tensor:
            g = drawn(backend, self.terms, target.window.panel(rows.start, rows.stop), m)
            m[rows] = m[rows] * scalar(self.keep, m) + g
            v[rows] = v[rows] * scalar(self.keep_square, v) + (g * g) * scalar(self.share, v)
            return adapted(m[rows], v[rows], self.factor, self.unbias, self.delta)

        add_(target, displacement, self, rounding)


@dataclass(frozen=True, slots=True)
class WindowedMove(TensorMove):
    """m = sum_k first_k g_k,  v = sum_k second_k g_k^2,  x <- round(a x + factor m / (sqrt(v) + delta)); nothing is kept.

    g_k: the sum of the k-th run of terms, from zero.
    """

    counts: tuple[int, ...] = ()  # of terms in each g_k
    first: tuple[float, ...] = ()
    second: tuple[float, ...] = ()
    delta: float = 0.0

    def spend_(self, backend: Backend, target: Target, buffers: Sequence[torch.Tensor], rounding: Rounding) -> None:
        like = torch.empty(0, dtype=wide(target.weight), device=target.weight.device)

        def displacement(rows: slice) -> torch.Tensor:
            panel, terms = target.window.panel(rows.start, rows.stop), iter(self.terms)
            m = torch.zeros(panel.shape, dtype=like.dtype, device=like.device)
            v = torch.zeros_like(m)
            for count, first, second in zip(self.counts, self.first, self.second, strict=True):
                g = drawn(backend, tuple(islice(terms, count)), panel, like)
                m = m + g * scalar(first, m)
                v = v + (g * g) * scalar(second, v)
            return adapted(m, v, self.factor, 1.0, self.delta)

        add_(target, displacement, self, rounding)


def adapted(m: torch.Tensor, v: torch.Tensor, factor: float, unbias: float, delta: float) -> torch.Tensor:
    """factor m / (sqrt(unbias v) + delta)."""
    return (m * scalar(factor, m)) / (root(v * scalar(unbias, v)) + scalar(delta, v))


def drawn(backend: Backend, terms: Point, window: Window, like: torch.Tensor) -> torch.Tensor:
    """scale_1 z_1 + scale_2 z_2 + ... over a window, from zero, of the type of `like`: [rows, columns]."""
    sums = torch.zeros(window.shape, dtype=like.dtype, device=like.device)
    backend.axpby_(Target(sums, window), [Move(terms)])
    return sums
