"""A compiled backend proves itself on the machine at hand before it touches a weight."""

from __future__ import annotations

from functools import lru_cache

import torch

from zoft.backends.base import Backend, Move, Rounding, Target, Term
from zoft.backends.reference import ReferenceBackend
from zoft.directions import Direction, Distribution, Window
from zoft.errors import UsageError

SHAPE = (200, 96)  # crosses a block of 128 rows; a few kernels, compiled once and then cached on the disk


@lru_cache(maxsize=16)
def prove(backend: Backend, device: torch.device) -> None:
    """Writes to small tensors on `device`, compared with the reference on the CPU, bit for bit.

    What a run depends on: both laws of z in float32, and bfloat16 with stochastic rounding.

    Raises:
        UsageError: another bit came; it names the case. A run on wrong bits could not be replayed.
    """
    window = Window.whole(0x0123456789ABCDEF, SHAPE)
    start = (torch.arange(SHAPE[0] * SHAPE[1]) % 977 - 488).reshape(SHAPE) * 2.0**-14
    cases = (
        (Distribution.RADEMACHER, torch.float32, Rounding.NEAREST),
        (Distribution.GAUSSIAN, torch.float32, Rounding.NEAREST),
        (Distribution.RADEMACHER, torch.bfloat16, Rounding.STOCHASTIC),
    )
    for law, dtype, rounding in cases:
        move = Move((Term(Direction(3, 5, 1, law), 2.0**-10),), decay=0.75, rounding_key=(3, 5))
        expected, found = start.to(dtype, copy=True), start.to(device, dtype, copy=True)
        ReferenceBackend().axpby_(Target(expected, window, decays=True), [move], rounding)
        backend.axpby_(Target(found, window, decays=True), [move], rounding)
        wrong = int((expected != found.cpu()).sum())
        if wrong:
            raise UsageError(
                f"the {backend.name} backend does not return the reference's bits on {device}: axpby_ of {law.value} "
                f"directions on {dtype} weights, {rounding.value} rounding, {wrong} of {expected.numel()} elements differ; "
                "train with zo_backend=reference, and please report it with your GPU and versions"
            )
