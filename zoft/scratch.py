"""Memory for the perturbed copies of weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

ALIGNMENT = 64  # bytes


class ScratchStack:
    """Scratch memory handed out and taken back in stack order; it grows on demand and is kept."""

    def __init__(self) -> None:
        self._buffers: dict[torch.device, torch.Tensor] = {}
        self._tops: list[tuple[torch.device, int]] = []
        self.peak = 0

    def push(self, device: torch.device, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """An uninitialised contiguous tensor."""
        used = math.prod(shape) * dtype.itemsize
        size = -(-used // ALIGNMENT) * ALIGNMENT
        base = self.reserve(device, size)
        self._tops.append((device, size))
        self.peak = max(self.peak, base + size)
        return self._buffers[device][base : base + used].view(dtype).view(*shape)

    def reserve(self, device: torch.device, size: int) -> int:
        """Make room for `size` bytes more; where they begin.

        Several pieces that are pushed without it would each take memory beside that of the one before, because tensors that
        were handed out keep their old buffer alive until they are popped.
        """
        base = sum(taken for place, taken in self._tops if place == device)
        buffer = self._buffers.get(device)
        if buffer is None or base + size > buffer.numel():
            self._buffers[device] = torch.empty(base + size, dtype=torch.uint8, device=device)
        return base

    def pop(self) -> None:
        self._tops.pop()

    def clear(self) -> None:
        """Take everything back."""
        self._tops.clear()
