"""Where the time of a step goes: perturbed copies, sweeps over the weights, and everything else (the forwards)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from zoft.backends import Backend, Move, Point, Rounding, Target
from zoft.backends.base import Factors
from zoft.directions import Direction, Window
from zoft.optimizer import ZOOptimizer


@dataclass
class Split:
    """Wall seconds of one step."""

    panels: float = 0.0  # perturbed copies of weights, their random numbers included
    sweeps: float = 0.0  # writes to the weights, their random numbers included
    whole: float = 0.0

    @property
    def rest(self) -> float:
        return self.whole - self.panels - self.sweeps


class _Timed(Backend):
    """Hands every op on, and adds up its time."""

    name = "timed"

    def __init__(self, inner: Backend, split: Split) -> None:
        self._inner, self._split = inner, split

    def axpby_(self, target: Target, moves: Sequence[Move], rounding: Rounding = Rounding.NEAREST) -> None:
        self._time("panels" if target.out is not None else "sweeps", self._inner.axpby_, target, moves, rounding)

    def sweep_(self, targets: Sequence[Target], moves: Sequence[Move], rounding: Rounding = Rounding.NEAREST) -> None:
        panels = all(target.out is not None for target in targets)
        self._time("panels" if panels else "sweeps", self._inner.sweep_, targets, moves, rounding)

    def factors(self, direction: Direction, window: Window, device: torch.device) -> Factors:
        return self._time("panels", self._inner.factors, direction, window, device)

    def dot(self, target: Target, direction: Direction) -> torch.Tensor:
        return self._time("sweeps", self._inner.dot, target, direction)

    def panel_pair(
        self,
        target: Target,
        points: Sequence[Point],
        copies: torch.Tensor,
        moves: Sequence[Move] = (),
        rounding: Rounding = Rounding.NEAREST,
    ) -> None:
        self._time("panels", self._inner.panel_pair, target, points, copies, moves, rounding)

    def perturbed_embedding(self, ids: torch.Tensor, target: Target, points: Sequence[Point]) -> torch.Tensor:
        return self._time("panels", self._inner.perturbed_embedding, ids, target, points)

    def thin_ready(
        self, target: Target, points: Sequence[Point], bias: torch.Tensor | None
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        return self._inner.thin_ready(target, points, bias)

    def thin_linear(
        self,
        x: torch.Tensor,
        target: Target,
        points: Sequence[Point],
        bias: torch.Tensor | None = None,
        ids: torch.Tensor | slice | None = None,
    ) -> torch.Tensor:
        return self._inner.thin_linear(x, target, points, bias, ids)

    def _time(self, part: str, op: Any, *arguments: Any) -> Any:
        start = time.perf_counter()
        result = op(*arguments)
        setattr(self._split, part, getattr(self._split, part) + time.perf_counter() - start)
        return result


@contextmanager
def split_times(optimizer: ZOOptimizer) -> Iterator[Split]:
    """Inside, the optimizer's ops are timed one by one; not on a GPU, where that would empty its queue after each."""
    split, inner = Split(), optimizer.space.backend
    if not any(slot.weight.is_cuda for slot in optimizer.space.slots):
        optimizer.space.backend = _Timed(inner, split)
    start = time.perf_counter()
    try:
        yield split
    finally:
        split.whole = time.perf_counter() - start
        optimizer.space.backend = inner
