"""Directions with thin factors or a mask, or of one block of layers, for any backend.

Matrices go through plain torch where there is a random mask, or factors that the backend does not take; all else through the
backend. Parameters outside a direction's block are not touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from zoft.backends.base import Backend, Factors, Make, Move, Point, Rounding, Target, Term, wide
from zoft.backends.reference import ReferenceBackend
from zoft.backends.stacked import Stacked, drawn_together, is_whole, stacked_rows
from zoft.directions import Direction, LowRank, Window, factors, for_window, sees
from zoft.directions.low_rank import product

KEPT_BYTES = 64 << 20  # of thin factors
MAX_BEGUN = 1 << 12


class ShapedBackend(Backend):
    """The ops of `zoft.backends.base` along directions of which some have a form or a block.

    A step's update forms A B^T panel by panel. Its losses need not: `thin_linear` goes through the factors.
    """

    def __init__(self, inner: Backend) -> None:
        self.name = inner.name
        self.inner, self._plain = inner, _Plain(self.factors)
        self._made: dict[Direction, dict[tuple[Window, torch.device], Factors]] = {}
        self._held = 0  # their bytes
        self._windows: dict[tuple[torch.device, int], dict[Window, None]] = {}  # of whole matrices, by block of layers
        # Whose factors were drawn for all of them: what is lost is drawn one by one
        self._begun: set[tuple[Direction, int]] = set()
        self._stacked = Stacked(self.factors)

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
        taken = [target for target in targets if self.inner.takes_factors(target)]
        if taken:
            self.inner.along_factors_(taken, seen, rounding, self.factors)
        for target in targets:
            if not self.inner.takes_factors(target):
                self._plain.axpby_(target, seen, rounding)

    def factors(self, direction: Direction, window: Window, device: torch.device) -> Factors:
        """A and B of a direction over a window; kept for a while, because both signs and the update read the same.

        The first time that a direction is asked for, its factors of all matrices that were asked for before are drawn.
        """
        made = self._made.get(direction, {}).get((window, device))
        if made is not None:
            return made
        if is_whole(window):
            self._windows.setdefault((device, window.block), {})[window] = None
        if (direction, window.block) not in self._begun:
            self._draw_all(direction, window.block, device)
        made = self._made.get(direction, {}).get((window, device))
        if made is None:
            made = factors(direction, window, device, self._dense)
            self._keep(direction, {window: made}, device)
        return made

    def _draw_all(self, direction: Direction, block: int, device: torch.device) -> None:
        """In one sweep for A and one for B."""
        if len(self._begun) >= MAX_BEGUN:
            self._begun.clear()
        self._begun.add((direction, block))
        windows = list(self._windows.get((device, block), ()))
        form = direction.form
        if not isinstance(form, LowRank) or form.shape != "low_rank" or len(windows) < 2:
            return
        if 4 * form.rank * sum(window.rows + window.columns for window in windows) <= KEPT_BYTES:
            self._keep(direction, drawn_together(direction, form, windows, device, self.inner), device)

    def _keep(self, direction: Direction, made: Mapping[Window, Factors], device: torch.device) -> None:
        """The directions that were kept longest make room."""
        self._held += _size(made)
        own = self._made.setdefault(direction, {})
        while self._held > KEPT_BYTES and len(self._made) > 1:
            oldest = next(z for z in self._made if z is not direction)
            self._held -= _size(self._made.pop(oldest))
        if self._held > KEPT_BYTES:
            own.clear()
            self._held = _size(made)
        own.update({(window, device): pair for window, pair in made.items()})

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
        if target.window.total_columns > 1 and any(point and point[0].waits for point in points):
            return stacked_rows(ids, target.weight, self._stacked.tables(points, target, _seen))
        shown = [_seen(p, target) for p in points]
        return self._of(target, [*map(Move, shown)]).perturbed_embedding(ids, target, shown)

    def thin_linear(
        self,
        x: torch.Tensor,
        target: Target,
        points: Sequence[Point],
        bias: torch.Tensor | None = None,
        ids: torch.Tensor | slice | None = None,
    ) -> torch.Tensor:
        left, right, scales = self._stacked.tables(points, target, _seen)
        weight = target.weight.detach()
        if ids is not None:
            weight, left = weight[ids], left[:, ids]
        return self.inner.low_rank(x, weight, left, right, scales, bias)

    def thin_ready(
        self, target: Target, points: Sequence[Point], bias: torch.Tensor | None
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        left, right, scales = self._stacked.tables(points, target, _seen)
        return self.inner.low_rank_ready(target.weight.detach(), left, right, scales, bias)

    def _of(self, target: Target, seen: Sequence[Move]) -> Backend:
        """Who computes these moves of this target."""
        dense = all(term.direction.form is None for move in seen for term in move.terms)
        return self.inner if dense else self._plain


class _Plain(ReferenceBackend):
    """The reference, with factors that are drawn already."""

    def __init__(self, make: Make) -> None:
        self._factors = make

    def draw_rows(self, direction: Direction, window: Window, rows: torch.Tensor) -> torch.Tensor:
        if not isinstance(direction.form, LowRank):
            return super().draw_rows(direction, window, rows)
        a, b = self._factors(direction, window, rows.device)
        return product(a[rows], b)


def _size(made: Mapping[Any, Factors]) -> int:
    """In bytes."""
    return sum(factor.nbytes for pair in made.values() for factor in pair)


def _seen(terms: Point, target: Target) -> Point:
    """The terms as this target sees them; a vector has what waits already."""
    window = target.window
    own = (term for term in terms if not (term.waits and window.total_columns == 1) and sees(term.direction, window))
    return tuple(Term(for_window(term.direction, window), term.scale) for term in own)


def _moves(moves: Sequence[Move], target: Target) -> list[Move]:
    """The moves as this target sees them, without those that leave it as it is: a stored weight rounds to itself."""
    seen = (replace(move, terms=_seen(move.terms, target)) for move in moves)
    return [move for move in seen if move.terms or move.decay != 1.0]
