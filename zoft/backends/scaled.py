"""Directions z / sqrt(h), h a tensor as large as the weights: in losses, sweeps and updates alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from zoft.backends.base import Backend, Move, Rounding, Target, Term
from zoft.backends.reference import ReferenceBackend, rows_of_a_panel, scalar
from zoft.backends.tensor_moves import TensorMove, drawn
from zoft.directions import Direction, Window, draw_rows
from zoft.directions.roots import root


class ScaledBackend(ReferenceBackend):
    """The ops of the reference along scaled directions; z itself is drawn by the backend at hand."""

    def __init__(self, inner: Backend, scales: Mapping[int, torch.Tensor]) -> None:
        """
        Args:
            scales: h of each parameter by its stream, whole and contiguous; read anew in every draw.
        """
        self.name, self.inner, self._scales = inner.name, inner, scales

    def draw(self, direction: Direction, window: Window, device: torch.device) -> torch.Tensor:
        h = self._scales[window.stream].view(-1, window.total_columns)[window.row : window.row + window.rows]
        return drawn(self.inner, (Term(direction, 1.0),), window, h) / root(h)

    def draw_rows(self, direction: Direction, window: Window, rows: torch.Tensor) -> torch.Tensor:
        h = self._scales[window.stream].view(-1, window.total_columns)[window.row + rows]
        return draw_rows(direction, window, rows).to(h.dtype) / root(h)


@dataclass(frozen=True, slots=True)
class CurvedMove(TensorMove):
    """x <- round(a x + scale_1 z_1 / sqrt(h) + ...), then h <- h (keep + share_1 z_1^2 + ...)."""

    buffers: ClassVar[tuple[str, ...]] = ("curvature",)
    keep: float = 1.0
    shares: tuple[float, ...] = ()

    def spend_(self, backend: Backend, target: Target, buffers: Sequence[torch.Tensor], rounding: Rounding) -> None:
        assert isinstance(backend, ScaledBackend), "a space with a curvature has such a backend"
        terms = tuple(Term(term.direction, self.factor * term.scale) for term in self.terms)
        backend.axpby_(target, [Move(terms, self.decay, self.rounding_key)], rounding)
        h = buffers[0].view(target.window.shape)
        step = rows_of_a_panel(target.weight, target.window)
        for start in range(0, target.window.rows, step):
            rows = slice(start, min(start + step, target.window.rows))
            growth = torch.full_like(h[rows], self.keep)
            for term, share in zip(self.terms, self.shares, strict=True):
                z = drawn(backend.inner, (Term(term.direction, 1.0),), target.window.panel(rows.start, rows.stop), h)
                growth = growth + (z * z) * scalar(share, h)
            h[rows] = h[rows] * growth
