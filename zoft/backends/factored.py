"""Directions with thin factors, for any backend: matrices through plain torch, vectors, which stay dense, through it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from zoft.backends.base import Backend, Move, Point, Rounding, Target, Term
from zoft.backends.reference import ReferenceBackend
from zoft.directions import Direction, factors, for_window


class FactoredBackend(Backend):
    """The ops of `zoft.backends.base` along directions of which some have a form.

    A step's update forms A B^T panel by panel. Its losses need not: `thin` gives the factors for `Backend.low_rank`.
    """

    def __init__(self, inner: Backend) -> None:
        self.name = inner.name
        self.inner, self._plain = inner, ReferenceBackend()

    def axpby_(self, target: Target, moves: Sequence[Move], rounding: Rounding = Rounding.NEAREST) -> None:
        self._of(target).axpby_(target, [replace(m, terms=_seen(m.terms, target)) for m in moves], rounding)

    def dot(self, target: Target, direction: Direction) -> torch.Tensor:
        return self._of(target).dot(target, _seen((Term(direction, 1.0),), target)[0].direction)

    def panel_pair(
        self,
        target: Target,
        points: Sequence[Point],
        copies: torch.Tensor,
        moves: Sequence[Move] = (),
        rounding: Rounding = Rounding.NEAREST,
    ) -> None:
        seen = [replace(m, terms=_seen(m.terms, target)) for m in moves]
        self._of(target).panel_pair(target, [_seen(p, target) for p in points], copies, seen, rounding)

    def perturbed_embedding(self, ids: torch.Tensor, target: Target, points: Sequence[Point]) -> torch.Tensor:
        return self._of(target).perturbed_embedding(ids, target, [_seen(p, target) for p in points])

    def _of(self, target: Target) -> Backend:
        return self.inner if target.window.total_columns == 1 else self._plain


def _seen(terms: Point, target: Target) -> Point:
    """The terms as this target sees them."""
    return tuple(Term(for_window(term.direction, target.window), term.scale) for term in terms)


def thin(point: Point, target: Target) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors [1, rows, r] and [1, columns, r], in the weight's dtype, whose product is the whole displacement of a point."""
    weight = target.weight
    pairs = [(term.scale, *factors(term.direction, target.window, weight.device)) for term in point]
    left = torch.cat([a * scale for scale, a, _ in pairs], dim=1)
    right = torch.cat([b for _, _, b in pairs], dim=1)
    return left.to(weight.dtype).unsqueeze(0), right.to(weight.dtype).unsqueeze(0)
