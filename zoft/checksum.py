"""One number for a set of tensors, made where they lie: different if a bit is."""

from __future__ import annotations

from collections.abc import Iterable

import torch

PANEL = 1 << 22  # elements that are 64-bit integers at once
GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # 2^64 / golden ratio, odd, as a signed number
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of an element


def checksum(tensors: Iterable[torch.Tensor]) -> int:
    """sum_i mix(b_i, i) mod 2^64 over the bits b_i of all elements: exact, so the same on every device and in every order.

    `mix` multiplies by odd numbers with a shift between (as MurmurHash3 ends), a bijection of b_i for every i: a change of
    one element always changes the sum, changes of several go unseen about once in 2^64. It finds faults, not forgeries.

    >>> one = torch.tensor([1.0, 2.0], dtype=torch.float64)
    >>> [checksum([one]) == checksum([other]) for other in (one.clone(), one.flip(0), -one)]
    [True, False, False]
    """
    total, position = 0, 0
    for tensor in tensors:
        bits = tensor.detach().reshape(-1).view(INTEGERS[tensor.element_size()])
        for panel in bits.split(PANEL):
            mixed = torch.arange(position, position + panel.numel(), device=bits.device).mul_(GOLDEN)
            mixed.bitwise_xor_(panel.to(torch.int64))
            for _ in range(2):
                mixed.bitwise_xor_((mixed >> 33).bitwise_and_((1 << 31) - 1)).mul_(GOLDEN)  # a shift without sign
            total += int(mixed.sum())
            position += panel.numel()
    return total % (1 << 64)
