"""Directions with thin factors, for any backend: matrices through plain torch, vectors, which stay dense, through it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from zoft.backends.base import Backend, Move, Point, Rounding, Target, Term
from zoft.backends.reference import ReferenceBackend
from zoft.directions import Direction, factors


class FactoredBackend(Backend):
    """The ops of `zoft.backends.base` along directions of which some have a form.

    A step's update forms A B^T panel by panel. Its losses need not: `thin_linear` takes x through the factors.
    """

    def __init__(self, inner: Backend) -> None:
        self.name = inner.name
        self._inner, self._plain = inner, ReferenceBackend()

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
        return self._inner if target.window.total_columns == 1 else self._plain


def _seen(terms: Point, target: Target) -> Point:
    """The terms as this target sees them: dense, if it is a vector."""
    if target.window.total_columns > 1:
        return terms
    return tuple(Term(replace(term.direction, form=None), term.scale) for term in terms)


def thin_linear(x: torch.Tensor, target: Target, point: Point) -> torch.Tensor:
    """x (sum_j s_j A_j B_j^T)^T, without the product of any two factors: x [..., columns] to [..., rows]."""
    y = x.new_zeros(*x.shape[:-1], target.window.rows)
    for term in point:
        a, b = factors(term.direction, target.window, x.device)
        y = y + (x @ b.to(x.dtype)) @ (a * term.scale).to(x.dtype).t()
    return y
