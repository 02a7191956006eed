"""Copies that stand where modules hold their weights: a stack, the memory of the copies, and what stood there before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from zoft.audit import ReadOutside, tensors
from zoft.scratch import ScratchStack
from zoft.space import Slot

Place = tuple[nn.Module, str]  # a module, and the attribute through which it reads a weight


class _Layer(NamedTuple):
    """What was put up at once."""

    copies: Mapping[Slot, torch.Tensor]
    before: Sequence[tuple[Place, torch.Tensor | None]]
    module: nn.Module | None  # while it runs; None: in the whole pass
    pieces: int  # of scratch


class Shown:
    """The copies of one pass. `end` puts everything back, also after an interrupt in the middle of anything here."""

    def __init__(self) -> None:
        self.scratch = ScratchStack()
        self._stack: list[_Layer] = []
        self._lasting = 0  # how many of them stay for the whole pass
        self._held: list[tuple[Place, torch.Tensor | None]] = []

    def begin(self, places: Iterable[Place]) -> None:
        """A pass begins. `places`: those that hold the same before and after it, whatever comes between."""
        self._held = [(place, place[0]._parameters[place[1]]) for place in places]

    def end(self) -> None:
        """Put back what stood there before the pass."""
        for layer in reversed(self._stack):
            _put_back(layer.before)
        _put_back(self._held)
        self._stack.clear()
        self.scratch.clear()
        self._held, self._lasting = [], 0

    def put(
        self,
        copies: Mapping[Slot, torch.Tensor],
        there: Iterable[tuple[Place, torch.Tensor]],
        module: nn.Module | None = None,
        pieces: int = 0,
    ) -> None:
        """Let modules read copies.

        Args:
            copies: what was displaced.
            there: where it is to be read, and as what: a copy, or a tensor made of it.
            module: during whose forward this stands; None: for the whole pass.
            pieces: how many pieces of scratch they take.
        """
        there = list(there)
        before = [(place, place[0]._parameters[place[1]]) for place, _ in there]
        self._stack.append(_Layer(copies, before, module, pieces))
        _put_back(there)
        if torch.is_grad_enabled():  # a graph that needs what was in this scratch before must not be walked
            torch.autograd.graph.increment_version(tuple(copies.values()))

    def stay(self) -> set[Place]:
        """What is shown so far stays for the whole pass; where it is shown."""
        self._lasting = len(self._stack)
        return {place for layer in self._stack for place, _ in layer.before}

    @property
    def in_the_middle(self) -> bool:
        """Whether a module runs whose copies are shown."""
        return len(self._stack) > self._lasting

    def runs(self, module: nn.Module) -> bool:
        """Whether copies are shown already because `module` runs."""
        return any(layer.module is module and layer.copies for layer in self._stack)

    def last_of(self, module: nn.Module) -> bool:
        """Whether the last thing that was put up is there because `module` runs."""
        return self.in_the_middle and self._stack[-1].module is module

    def take(self) -> Mapping[Slot, torch.Tensor]:
        """Put back what stood before the last thing that was put up; its copies."""
        layer = self._stack[-1]
        _put_back(layer.before)
        self._stack.pop()
        for _ in range(layer.pieces):
            self.scratch.pop()
        return layer.copies

    def take_from(self, module: nn.Module, output: Any) -> None:
        """`take`, when `module` has run.

        Raises:
            ReadOutside: an output lies in the memory of a copy that is no longer shown.
        """
        returned = [tensor.data_ptr() for tensor in tensors(output) if tensor.numel()]
        for slot, copy in self.take().items():
            if any(copy.data_ptr() <= start < copy.data_ptr() + copy.nbytes for start in returned):
                raise ReadOutside(slot, f"whoever {type(module).__name__} returns it to")


def _put_back(held: Iterable[tuple[Place, torch.Tensor | None]]) -> None:
    for (module, attribute), weight in held:
        module._parameters[attribute] = weight  # type: ignore[assignment]
