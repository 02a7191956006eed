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
        base = sum(size for place, size in self._tops if place == device)
        used = math.prod(shape) * dtype.itemsize
        size = -(-used // ALIGNMENT) * ALIGNMENT
        buffer = self._buffers.get(device)
        if buffer is None or base + size > buffer.numel():
            # Tensors handed out before keep their old buffer alive until they are popped.
            buffer = torch.empty(base + size, dtype=torch.uint8, device=device)
            self._buffers[device] = buffer
        self._tops.append((device, size))
        self.peak = max(self.peak, base + size)
        return buffer[base : base + used].view(dtype).view(*shape)

    def reserve(self, device: torch.device, size: int) -> None:
        """Make room for `size` bytes more: pieces that are pushed one by one would each take memory beside the one before."""
        base = sum(taken for place, taken in self._tops if place == device)
        buffer = self._buffers.get(device)
        if buffer is None or base + size > buffer.numel():
            self._buffers[device] = torch.empty(base + size, dtype=torch.uint8, device=device)

    def pop(self) -> None:
        self._tops.pop()

    def clear(self) -> None:
        """Take everything back."""
        self._tops.clear()
