"""One number for a set of tensors, made where they lie: different if a bit is."""

from __future__ import annotations

from collections.abc import Iterable

import torch

PANEL = 1 << 22  # elements that are widened to 64 bits at once
MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # 2^64 / golden ratio, as a signed number: spreads positions over all bits
WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of an element


def checksum(tensors: Iterable[torch.Tensor]) -> int:
    """64 bits: sum over all elements of word(element) * (position * GOLDEN | 1), modulo 2^64.

    A sum of integers has no order, so every device and thread count gives the same. A multiplier is odd, so changing any one
    element changes the sum; several changes cancel with a chance of about 2^-64. It finds faults, not forgeries.

    >>> a = torch.tensor([1.0, 2.0])
    >>> checksum([a]) == checksum([a.clone()]), checksum([a]) == checksum([a.flip(0)])
    (True, False)
    """
    total, position = 0, 0
    for tensor in tensors:
        words = tensor.detach().contiguous().reshape(-1).view(WORDS[tensor.element_size()])
        for panel in words.split(PANEL):
            place = torch.arange(position, position + panel.numel(), dtype=torch.int64, device=panel.device)
            total += int(place.mul_(GOLDEN).bitwise_or_(1).mul_(panel).sum())
            position += panel.numel()
    return total & MASK
