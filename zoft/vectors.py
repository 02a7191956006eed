"""Displaced copies of norms and biases, made in one sweep at the beginning of a pass.

A model has more vectors than matrices and next to none of its elements in them: made one by one when their modules run, most
of their time would go into beginning to make them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate

import torch

from zoft.backends import Move, Target
from zoft.scratch import ALIGNMENT
from zoft.space import ParameterSpace, Slot

LONGEST = 1 << 16  # elements of a vector whose copy is held for a whole pass


class Vectors:
    """The copies. Every pass fills the same memory."""

    def __init__(self, space: ParameterSpace, wide: Collection[Slot]) -> None:
        """
        Args:
            space: whose vectors; those of a model whose weights are streamed or sharded, and long ones, are left out.
            wide: of them, those whose copies are float32 whatever they are stored in.
        """
        self._space, self._wide = space, frozenset(wide)
        self._kept: dict[Slot, torch.Tensor] = {}
        if space.streamed is not None:
            return
        places: dict[tuple[torch.device, torch.dtype], list[Slot]] = {}
        for slot in space.slots:
            if slot.shard is None and slot.window.total_columns == 1 and 0 < slot.weight.numel() <= LONGEST:
                dtype = torch.float32 if slot in wide else slot.weight.dtype
                places.setdefault((slot.weight.device, dtype), []).append(slot)
        for (device, dtype), slots in places.items():
            piece = ALIGNMENT // dtype.itemsize  # a vector of odd length must not leave the next ones at odd addresses
            starts = list(accumulate((-(-slot.weight.numel() // piece) * piece for slot in slots), initial=0))
            flat = torch.empty(starts[-1], dtype=dtype, device=device)
            for slot, start in zip(slots, starts, strict=False):
                self._kept[slot] = flat[start : start + slot.weight.numel()].view(slot.weight.shape)

    def displaced(self, moved: Collection[Slot], moves: Sequence[Move]) -> Mapping[Slot, torch.Tensor]:
        """Copies of the vectors among `moved`, displaced by `moves`, and of all wide ones; they stand until the next call."""
        copies = {slot: copy for slot, copy in self._kept.items() if slot in moved or slot in self._wide}
        targets = []
        for slot, copy in copies.items():
            if copy.dtype is slot.weight.dtype:
                targets.append(Target(slot.weight, slot.window, out=copy))
            else:
                copy.copy_(slot.weight)
                targets.append(Target(copy, slot.window))
        if targets:
            self._space.backend.sweep_(targets, moves)
        return copies
