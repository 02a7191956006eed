"""The CPU backend: compiled once by numba, threaded, one pass over the weights however many moves there are."""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zoft.backends.base import Move, Rounding, Target
from zoft.backends.cpu import plan
from zoft.backends.reference import ReferenceBackend

_INLINE_WORK = 1 << 18  # elements times terms below which waking another thread costs more than it saves
_CHUNKS_A_THREAD = 4  # pieces of work a thread takes on average: evens out a shared machine


@cache
def _sweep() -> Callable[..., None]:
    """The compiled kernel. Its first call on a machine compiles (some seconds); later processes load it from numba's cache."""
    from zoft.backends.cpu.kernel import compile_sweep

    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return compile_sweep(digest.hexdigest())


class _Buffers(threading.local):
    """A thread's buffers, kept between calls."""

    memory: np.ndarray | None = None
    words: int = -1
    addresses: Any = None

    def get(self, stride: int, slots: int) -> np.ndarray:
        """Addresses of buffers that hold `slots` rows of words of `stride` lanes."""
        if stride * slots > self.words:
            parts = {
                plan.SCRATCH.acc: plan.TILE_ELEMENTS,
                plan.SCRATCH.z: plan.TILE_ELEMENTS,
                plan.SCRATCH.bits: 4 * plan.NARROW_LANES,
                plan.SCRATCH.normals: 4 * plan.NARROW_LANES,
                plan.SCRATCH.words: 4 * stride * slots,
            }
            self.memory = np.empty(4 * sum(parts.values()) + 64, dtype=np.uint8)
            self.words = stride * slots
            self.addresses = np.zeros(len(plan.SCRATCH), dtype=np.int64)
            at = -(-self.memory.ctypes.data // 64) * 64
            for name, elements in parts.items():
                self.addresses[name] = at
                at += 4 * elements
        self.addresses[plan.SCRATCH.stride] = stride
        return self.addresses


_BUFFERS = _Buffers()


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Threads of this process (a fork inherits the object but not its threads, hence the second argument)."""
    return ThreadPoolExecutor(threads, thread_name_prefix="zoft-cpu")


class CpuBackend(ReferenceBackend):
    """numba: vectorised for whatever the machine has, `torch.get_num_threads()` threads, bits independent of their number.

    Ops that are not compiled here are the reference's, on top of the compiled ones.
    """

    name = "cpu"

    def axpby_(self, target: Target, moves: Sequence[Move], rounding: Rounding = Rounding.NEAREST) -> None:
        self.sweep_((target,), moves, rounding)

    def sweep_(self, targets: Sequence[Target], moves: Sequence[Move], rounding: Rounding = Rounding.NEAREST) -> None:
        kept: list[torch.Tensor] = []  # temporaries whose addresses are in the tables
        scattered: list[tuple[torch.Tensor, torch.Tensor]] = []  # (non-contiguous weight, its contiguous copy)
        rows: list[tuple[int, ...]] = []
        for target in targets:
            if not moves and target.out is not None:
                target.out.detach().copy_(target.weight.detach())
            if target.weight.numel() == 0 or not moves:
                continue
            if not target.weight.is_contiguous():
                copy = target.weight.detach().contiguous()
                kept.append(copy)
                if target.out is None:
                    scattered.append((target.weight, copy))
                target = Target(copy, target.window, target.decays, target.residual, target.out)
            low_sink = None
            if target.out is not None and target.residual is not None:
                low_sink = torch.empty_like(target.residual)
                kept.append(low_sink)
            rows.append(plan.describe(target, rounding, low_sink))
        if rows:
            _run(rows, plan.tabulate(moves))
        for weight, copy in scattered:
            weight.detach().copy_(copy)


def _run(rows: list[tuple[int, ...]], moves: plan.Moves) -> None:
    """Cut the work into items and share them between threads."""
    sweep = _sweep()
    items, sizes = plan.cut(rows, moves.slab_columns)
    stride = min(moves.slab_columns, max(row[plan.TARGET.columns] for row in rows))
    table = np.array(rows, dtype=np.int64)
    arguments = (table, items, moves.moves, moves.terms, moves.scales, moves.decays)
    threads = min(torch.get_num_threads(), len(items))
    work = np.cumsum(sizes)
    total = int(work[-1])
    if threads == 1 or total * max(1, len(moves.terms)) < _INLINE_WORK:
        sweep(*arguments, _BUFFERS.get(stride, moves.slots), 0, len(items))
        return
    pieces = min(len(items), threads * _CHUNKS_A_THREAD)
    bounds = [0, *np.searchsorted(work, np.arange(1, pieces) * (total / pieces)).tolist(), len(items)]
    queue = itertools.count()  # next() is atomic

    def take() -> None:
        scratch = _BUFFERS.get(stride, moves.slots)
        while (piece := next(queue)) < pieces:
            sweep(*arguments, scratch, bounds[piece], bounds[piece + 1])

    helpers = [_pool(threads, os.getpid()).submit(take) for _ in range(threads - 1)]
    take()
    for helper in helpers:
        helper.result()
