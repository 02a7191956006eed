"""Finds reads of a trainable parameter's memory while its perturbed copy should be read."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from zoft.space import Slot


class ReadOutside(Exception):
    """A trainable parameter was read while its displaced copy was not shown."""

    def __init__(self, slot: Slot, operation: str) -> None:
        super().__init__(slot.name)
        self.slot, self.operation = slot, operation


class Audit(TorchDispatchMode):
    """Stops at any operation that reads the memory of a trainable parameter while its perturbed copy should be read."""

    def __init__(
        self, watched: Iterable[Slot], allowed: Callable[[], bool], moves_about: Callable[[Slot], bool]
    ) -> None:
        """
        Args:
            watched: the parameters that are displaced.
            allowed: is the present operation the one that makes the copies?
            moves_about: is this one at another address while its block runs?
        """
        super().__init__()
        self._allowed = allowed
        slots = [slot for slot in watched if slot.weight.numel() and slot.shard is None]  # gathering reads shards
        self._moving = [slot for slot in slots if moves_about(slot)]
        slots = [slot for slot in slots if not moves_about(slot)]
        self._slots = sorted(slots, key=lambda slot: slot.weight.data_ptr())
        self._starts = [slot.weight.data_ptr() for slot in self._slots]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self._allowed():
            for tensor in tensors((args, kwargs or {})):
                slot = self._owner(tensor)
                if slot is not None:
                    raise ReadOutside(slot, str(func))
        return func(*args, **(kwargs or {}))

    def _owner(self, tensor: torch.Tensor) -> Slot | None:
        """The trainable parameter in whose memory `tensor` begins."""
        if tensor.device.type == "meta" or not tensor.numel():
            return None
        for slot in self._moving:
            if 0 <= tensor.data_ptr() - slot.weight.data_ptr() < slot.weight.nbytes:
                return slot
        index = bisect.bisect_right(self._starts, tensor.data_ptr()) - 1
        if index < 0:
            return None
        slot = self._slots[index]
        return slot if tensor.data_ptr() < self._starts[index] + slot.weight.nbytes else None


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """The tensors among nested lists, tuples and dictionaries."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors(item)
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))
