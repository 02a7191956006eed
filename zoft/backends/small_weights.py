"""Writes, and displaced copies, of the small weights of a matrix alone, by any backend."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from zoft.backends.base import Backend, Move, Point, Rounding, Target
from zoft.directions import Direction

PANEL_ELEMENTS = 1 << 20  # of a matrix, of which copies are held at a time


class SmallWeightsBackend(Backend):
    """Another backend's ops, except that no weight above its matrix's threshold changes.

    Which ones these are is read off the stored weights before each move, so that a loss at w + s z and the write that
    follows see the same mask, as long as the weights are not displaced themselves. Residual bits do not count.
    """

    def __init__(self, inner: Backend, thresholds: Mapping[int, float]) -> None:
        """
        Args:
            thresholds: by stream; of what is not in it all weights move.
        """
        self.name = inner.name
        self._inner, self._thresholds = inner, thresholds

    def axpby_(self, target: Target, moves: Sequence[Move], rounding: Rounding = Rounding.NEAREST) -> None:
        limit = self._thresholds.get(target.window.stream)
        if limit is None:
            self._inner.axpby_(target, moves, rounding)
            return
        if target.out is not None:
            target.out.detach().copy_(target.weight.detach())
            target = Target(target.out, target.window, target.decays)
        window, weight = target.window, target.weight.detach()
        flat = weight.reshape(window.shape)  # a copy only where the weight is not contiguous
        low = None if target.residual is None else target.residual.view(window.shape)
        step = max(1, PANEL_ELEMENTS // window.columns)
        for start in range(0, window.rows, step):
            stop = min(start + step, window.rows)
            parts = [flat[start:stop], *([] if low is None else [low[start:stop]])]
            panel = Target(parts[0], window.panel(start, stop), target.decays, *parts[1:])
            for move in moves:
                before = [part.clone() for part in parts]
                small = before[0].abs() <= limit
                self._inner.axpby_(panel, [move], rounding)
                for part, old in zip(parts, before, strict=True):
                    part.copy_(torch.where(small, part, old))
        if not weight.is_contiguous():
            weight.copy_(flat.view(weight.shape))

    def dot(self, target: Target, direction: Direction) -> torch.Tensor:
        limit = self._thresholds.get(target.window.stream)
        if limit is None:
            return self._inner.dot(target, direction)
        weight = target.weight.detach()
        seen = torch.where(weight.abs() <= limit, weight, torch.zeros_like(weight))
        return self._inner.dot(Target(seen, target.window), direction)

    def panel_pair(
        self,
        target: Target,
        points: Sequence[Point],
        copies: torch.Tensor,
        moves: Sequence[Move] = (),
        rounding: Rounding = Rounding.NEAREST,
    ) -> None:
        if target.window.stream not in self._thresholds:
            self._inner.panel_pair(target, points, copies, moves, rounding)
            return
        if moves:
            self.axpby_(target, moves, rounding)
        for copy, point in zip(copies, points, strict=True):
            self.axpby_(Target(target.weight, target.window, out=copy), [Move(point)])

    def perturbed_embedding(self, ids: torch.Tensor, target: Target, points: Sequence[Point]) -> torch.Tensor:
        rows = self._inner.perturbed_embedding(ids, target, points)
        limit = self._thresholds.get(target.window.stream)
        if limit is None:
            return rows
        plain = target.weight.detach().index_select(0, ids.reshape(-1)).view(rows.shape)
        return torch.where(plain.abs() <= limit, rows, plain)


def threshold(weight: torch.Tensor, share: float) -> float:
    """The size that the smallest `share` of the weights do not exceed: the ceil(share n)-th smallest |w|, exactly.

    >>> threshold(torch.tensor([[-3.0, 1.0], [2.0, -4.0]]), 0.5)
    2.0
    """
    sizes = weight.detach().reshape(-1).abs()
    wide = sizes.to(torch.promote_types(sizes.dtype, torch.float32))
    return float(wide.kthvalue(max(1, math.ceil(share * len(sizes)))).values)
