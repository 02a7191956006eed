"""Directions with thin factors or a mask, or of one block of layers, for any backend.

Matrices go through plain torch where there is a random mask, or factors that the backend does not take; all else through the
backend. Parameters outside a direction's block are not touched.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace

import torch

from zoft.backends.base import Backend, Factors, Move, Point, Rounding, Target, Term, wide
from zoft.backends.reference import ReferenceBackend
from zoft.directions import Direction, LowRank, Window, factors, for_window, sees

KEPT_BYTES = 64 << 20  # of thin factors


class ShapedBackend(Backend):
    """The ops of `zoft.backends.base` along directions of which some have a form or a block.

    A step's update forms A B^T panel by panel. Its losses need not: `thin` gives the factors for `Backend.low_rank`.
    """

    def __init__(self, inner: Backend) -> None:
        self.name = inner.name
        self.inner, self._plain = inner, ReferenceBackend()
        self._made: dict[tuple[Direction, Window, torch.device], Factors] = {}
        self._held = 0  # their bytes

    def axpby_(self, target: Target, moves: Sequence[Move], rounding: Rounding = Rounding.NEAREST) -> None:
        self.sweep_((target,), moves, rounding)

    def sweep_(self, targets: Sequence[Target], moves: Sequence[Move], rounding: Rounding = Rounding.NEAREST) -> None:
        alike: dict[tuple[int, bool], list[Target]] = {}  # see the same moves
        for target in targets:
            alike.setdefault((target.window.block, target.window.total_columns == 1), []).append(target)
        for group in alike.values():
            seen = _moves(moves, group[0])
            if seen:
                self._move_(group, seen, rounding)
                continue
            for target in group:
                if target.out is not None:
                    target.out.detach().copy_(target.weight.detach())

    def _move_(self, targets: Sequence[Target], seen: Sequence[Move], rounding: Rounding) -> None:
        forms = {type(term.direction.form) for move in seen for term in move.terms}
        if LowRank not in forms or not forms <= {LowRank, type(None)}:
            self._of(targets[0], seen).sweep_(targets, seen, rounding)
            return
        for target in targets:
            if self.inner.takes_factors(target):
                made = functools.partial(self.factors, window=target.window, device=target.weight.device)
                self.inner.along_factors_(target, seen, rounding, made)
            else:
                self._plain.axpby_(target, seen, rounding)

    def factors(self, direction: Direction, window: Window, device: torch.device) -> Factors:
        """A and B of a direction over a window; kept for a while, because both signs and the update read the same."""
        key = (direction, window, device)
        made = self._made.get(key)
        if made is None:
            made = factors(direction, window, device, self._dense)
            self._held += sum(factor.nbytes for factor in made)
            if self._held > KEPT_BYTES:
                self._made.clear()
                self._held = sum(factor.nbytes for factor in made)
            self._made[key] = made
        return made

    def _dense(self, direction: Direction, window: Window, device: torch.device) -> torch.Tensor:
        """z of a dense direction, by the backend at hand; to -0.0 even a z of -0.0 is added as it is."""
        z = torch.full(window.shape, -0.0, device=device)
        self.inner.axpby_(Target(z, window), (Move((Term(direction, 1.0),)),))
        return z

    def dot(self, target: Target, direction: Direction) -> torch.Tensor:
        if not sees(direction, target.window):
            return torch.zeros((), dtype=wide(target.weight), device=target.weight.device)
        seen = _seen((Term(direction, 1.0),), target)
        return self._of(target, [Move(seen)]).dot(target, seen[0].direction)

    def panel_pair(
        self,
        target: Target,
        points: Sequence[Point],
        copies: torch.Tensor,
        moves: Sequence[Move] = (),
        rounding: Rounding = Rounding.NEAREST,
    ) -> None:
        seen, shown = _moves(moves, target), [_seen(p, target) for p in points]
        self._of(target, [*seen, *map(Move, shown)]).panel_pair(target, shown, copies, seen, rounding)

    def perturbed_embedding(self, ids: torch.Tensor, target: Target, points: Sequence[Point]) -> torch.Tensor:
        shown = [_seen(p, target) for p in points]
        return self._of(target, [*map(Move, shown)]).perturbed_embedding(ids, target, shown)

    def _of(self, target: Target, seen: Sequence[Move]) -> Backend:
        """Who computes these moves of this target."""
        dense = all(term.direction.form is None for move in seen for term in move.terms)
        return self.inner if dense else self._plain


def _seen(terms: Point, target: Target) -> Point:
    """The terms as this target sees them."""
    window = target.window
    return tuple(Term(for_window(t.direction, window), t.scale) for t in terms if sees(t.direction, window))


def _moves(moves: Sequence[Move], target: Target) -> list[Move]:
    """The moves as this target sees them, without those that leave it as it is: a stored weight rounds to itself."""
    seen = (replace(move, terms=_seen(move.terms, target)) for move in moves)
    return [move for move in seen if move.terms or move.decay != 1.0]


def thin(points: Sequence[Point], target: Target, backend: Backend) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors [points, rows, r] and [points, columns, r], in the weight's dtype: products are the whole displacements.

    The factors of a direction are made once, however many points lie on it. r is the most that a point has; the others' rest
    is zero, and so is all of the centre's.
    """
    weight, window = target.weight, target.window
    seen, made = [_seen(point, target) for point in points], {}
    for direction in {term.direction: None for terms in seen for term in terms}:
        made[direction] = backend.factors(direction, window, weight.device)
    rank = max(1, *(sum(made[term.direction][0].shape[1] for term in terms) for terms in seen))
    left = weight.new_zeros(len(points), window.rows, rank)
    right = weight.new_zeros(len(points), window.columns, rank)
    for member, terms in enumerate(seen):
        first = 0
        for term in terms:
            a, b = made[term.direction]
            here = slice(first, first + a.shape[1])
            left[member, :, here], right[member, :, here] = a * term.scale, b
            first = here.stop
    return left, right
