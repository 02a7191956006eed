"""The CPU backend: compiled once by numba, threaded, one pass over the weights however many moves there are."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from zoft.backends.base import Move, Point, Rounding, Target
from zoft.backends.cpu import plan
from zoft.backends.cpu.kernel import entry
from zoft.backends.reference import ReferenceBackend

_INLINE_WORK = 1 << 18  # elements times terms below which waking another thread costs more than it saves
_CHUNKS_A_THREAD = 4  # pieces of work a thread takes on average: evens out a shared machine


class _Buffers(threading.local):
    """A thread's buffers, kept between calls."""

    memory: np.ndarray | None = None
    words: int = 0
    lanes: int = 0
    addresses: Any = None

    def get(self, stride: int, slots: int) -> np.ndarray:
        """Addresses of buffers that hold `slots` rows of words of `stride` lanes."""
        if self.memory is None or stride > self.lanes or stride * slots > self.words:
            self.lanes, slots = max(self.lanes, stride), max(slots, 1)
            self.words = max(self.words, stride * slots)
            parts = {
                plan.SCRATCH.acc: plan.TILE_ELEMENTS,
                plan.SCRATCH.z: 4 * plan.NARROW_LANES,
                plan.SCRATCH.bits: 4 * max(plan.NARROW_LANES, self.lanes),
                plan.SCRATCH.normals: 4 * plan.NARROW_LANES,
                plan.SCRATCH.words: 4 * self.words,
            }
            self.memory = np.empty(4 * sum(parts.values()) + 64, dtype=np.uint8)
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
            _run(rows, plan.tabulate(moves, rounding))
        for weight, copy in scattered:
            weight.detach().copy_(copy)

    def panel_pair(
        self,
        target: Target,
        points: Sequence[Point],
        copies: torch.Tensor,
        moves: Sequence[Move] = (),
        rounding: Rounding = Rounding.NEAREST,
    ) -> None:
        """One read of the weight, and of a direction that neighbours share one draw, where each point has one term."""
        if moves:
            self.axpby_(target, moves, rounding)
        weight = target.weight.detach()
        if not (
            len(points) == len(copies) > 1 and weight.is_contiguous() and copies.is_contiguous() and weight.numel()
        ):
            return super().panel_pair(target, points, copies)
        table = plan.tabulate([Move(point) for point in points], Rounding.NEAREST)
        row = plan.describe(Target(weight, target.window, out=copies[0]), Rounding.NEAREST, None)
        if not table.single_terms or plan.entry_of(row, table) not in ("signs", "bfloat", "normals"):
            return super().panel_pair(target, points, copies)
        _run([(*row[: plan.TARGET.fan], copies.stride(0) * copies.element_size())], table)

    def perturbed_embedding(self, ids: torch.Tensor, target: Target, points: Sequence[Point]) -> torch.Tensor:
        weight, window = target.weight.detach(), target.window
        if not weight.is_contiguous() or ids.device.type != "cpu" or ids.numel() == 0:
            return super().perturbed_embedding(ids, target, points)
        wanted = ids.reshape(len(points), -1)
        low, high = int(wanted.min()), int(wanted.max())
        if low < 0 or high >= window.rows:
            raise IndexError(f"rows {low} to {high} were looked up in an embedding of {window.rows} rows")
        rows = weight.new_empty(*wanted.shape, window.columns)
        for row_ids, out, point in zip(wanted, rows, points, strict=True):
            first = Target(weight.view(window.shape)[:1], window.panel(0, 1), out=out[:1])
            moves = plan.tabulate([Move(point)], Rounding.NEAREST)
            row = plan.describe(first, Rounding.NEAREST, None)
            table, items = plan.look_up(row, row_ids.numpy(), weight.element_size(), moves.slab_columns)
            _share({plan.entry_of(row, moves): (table, items)}, moves)
        return rows.view(*ids.shape, window.columns)


def _run(rows: list[tuple[int, ...]], moves: plan.Moves) -> None:
    """Cut the work into items and share them between threads."""
    by_entry: dict[str, list[tuple[int, ...]]] = {}
    for row in rows:
        by_entry.setdefault(plan.entry_of(row, moves), []).append(row)
    tables = {name: np.array(group, dtype=np.int64) for name, group in by_entry.items()}
    _share({name: (tables[name], plan.cut(group, moves.slab_columns)) for name, group in by_entry.items()}, moves)


def _share(work: dict[str, tuple[np.ndarray, np.ndarray]], moves: plan.Moves) -> None:
    """Share the items (table of targets, items) of every entry point between threads."""
    stride = min(moves.slab_columns, max(int(table[:, plan.TARGET.columns].max()) for table, _ in work.values()))
    sizes_of = {n: items[:, plan.ITEM.rows] * items[:, plan.ITEM.columns] for n, (_, items) in work.items()}
    total = sum(int(sizes.sum()) for sizes in sizes_of.values())
    threads = torch.get_num_threads()
    if total * max(1, len(moves.terms)) < _INLINE_WORK:
        threads = 1
    pieces: list[tuple[Any, ...]] = []
    for name, (table, items) in work.items():
        arguments = (entry(name), table, items, moves.moves, moves.terms, moves.scales, moves.decays)
        bounds = _bounds(sizes_of[name], total / (threads * _CHUNKS_A_THREAD) if threads > 1 else total)
        pieces += [(*arguments, first, last) for first, last in pairwise(bounds)]
    queue = iter(pieces)  # next() is atomic

    def take() -> None:
        scratch = _BUFFERS.get(stride, moves.slots)
        for sweep, *tables, first, last in queue:
            sweep(*tables, scratch, first, last)

    helpers = [_pool(threads, os.getpid()).submit(take) for _ in range(min(threads, len(pieces)) - 1)]
    take()
    for helper in helpers:
        helper.result()


def _bounds(sizes: np.ndarray, wanted: float) -> list[int]:
    """Where to cut items of these sizes into runs of about `wanted` elements each."""
    work = np.cumsum(sizes)
    pieces = min(len(sizes), max(1, round(float(work[-1]) / wanted)))
    inner = np.searchsorted(work, np.arange(1, pieces) * (work[-1] / pieces))
    return [0, *sorted(set(inner.tolist()) - {0, len(sizes)}), len(sizes)]
