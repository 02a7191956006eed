"""Philox4x32-10, the definition in plain torch.

Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). A block cipher of ten rounds turns a
128-bit counter and a 64-bit key into 128 random bits: any part of a stream can be drawn alone, in any order, on any device.
Every faster implementation in this project (numba, Triton) is tested against this one, and this one against the known answers
of the Random123 library.
"""

from __future__ import annotations

import torch

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
_MASK = 0xFFFFFFFF

Words = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def _multiply_high_low(multiplier: int, word: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The high and low 32 bits of multiplier * word, both operands below 2^32.

    The int64 product wraps modulo 2^64, which leaves all 64 bits right; the mask turns the arithmetic shift into a logical one.
    """
    product = word * multiplier
    return (product >> 32) & _MASK, product & _MASK


def philox4x32(counter: Words, key: tuple[int, int]) -> Words:
    """128 random bits for every counter.

    Args:
        counter: four int64 tensors of one (broadcastable) shape, each value in [0, 2^32).
        key: two integers in [0, 2^32).

    Returns:
        Four int64 tensors of that shape, each value in [0, 2^32).

    >>> zero = torch.zeros(1, dtype=torch.int64)
    >>> [hex(int(word)) for word in philox4x32((zero, zero, zero, zero), (0, 0))]
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        high0, low0 = _multiply_high_low(MULTIPLIERS[0], c0)
        high1, low1 = _multiply_high_low(MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0 = (k0 + KEY_INCREMENTS[0]) & _MASK
        k1 = (k1 + KEY_INCREMENTS[1]) & _MASK
    return c0, c1, c2, c3
