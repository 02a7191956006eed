"""What stands beside the product with W along thin factors: bias + (x B) s A^T, written once, for float32 and bfloat16.

The vendor's product with W is added to it afterwards. The sums over columns are float32 in an order that depends on the
machine's vectors, as the vendor's own do, and on nothing else; the result is rounded once.
"""

from __future__ import annotations

import threading
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import carray, njit  # pyright: ignore[reportPrivateImportUsage]

from zoft.backends.cpu.bfloat import high_value, join, low_value, nearest
from zoft.backends.cpu.kernel import compiled, digest
from zoft.backends.cpu.memory import fetch_add, load_f32, load_pair, load_u16, store_f32, store_pair, store_u16
from zoft.backends.cpu.storage import BF16, F32, bfloat_value
from zoft.backends.cpu.threads import together
from zoft.backends.cpu.tiles import add_scaled
from zoft.backends.low_rank import onto

ROWS = 8  # of x to a work item: each tile of A serves that many
TILE = 1024  # outputs that are in float32 at once
MOST_RANK = 4  # beyond which the vendor's products are quicker
_INLINE_WORK = 1 << 16  # products below which another thread costs more than it saves
KINDS = {torch.float32: F32, torch.bfloat16: BF16}
_SINGLE = np.int64(F32)


class JobFields(NamedTuple):
    """What the threads that share one product are given: addresses, sizes in elements, and two counters."""

    x: int = 0  # [points, rows, columns]
    y: int = 1  # [points, rows, outputs]
    right: int = 2  # B^T [points, rank, columns]
    left: int = 3  # A^T [points, rank, outputs]
    bias: int = 4  # [points, outputs]; 0: there is none
    scales: int = 5  # float32 [points, rank]
    kind: int = 6  # of storage
    points: int = 7
    rows: int = 8
    columns: int = 9
    outputs: int = 10
    rank: int = 11
    right_member: int = 12  # from one point's to the next one's; 0: they share it
    right_pitch: int = 13  # from one rank to the next
    left_member: int = 14
    left_pitch: int = 15
    bias_member: int = 16
    scratch: int = 17
    scratch_bytes: int = 18  # a thread
    next_item: int = 19  # address of the item that the next free thread takes
    next_thread: int = 20  # address of the number of the next thread


JOB = JobFields()


@njit(fastmath={"reassoc", "contract", "nsz"})
def _dot_singles(x, b, count):  # type: ignore[no-untyped-def]
    total = np.float32(0.0)
    for i in range(count):
        total += load_f32(x, i) * load_f32(b, i)
    return total


@njit(fastmath={"reassoc", "contract", "nsz"})
def _dot_pairs(x, b, count):  # type: ignore[no-untyped-def]
    """Of bfloat16, two neighbours a word."""
    first, second = np.float32(0.0), np.float32(0.0)
    for i in range(count >> 1):
        pair, other = load_pair(x, i), load_pair(b, i)
        first += low_value(pair) * low_value(other)
        second += high_value(pair) * high_value(other)
    if count & 1 != 0:
        first += bfloat_value(load_u16(x, count - 1)) * bfloat_value(load_u16(b, count - 1))
    return first + second


@njit
def _widen(kind, source, sink, count):  # type: ignore[no-untyped-def]
    """To float32. Of bfloat16 those of even places first, then those of odd ones."""
    if kind != BF16:
        for i in range(count):
            store_f32(sink, i, load_f32(source, i))
        return
    half = count >> 1
    odd = sink + 4 * (count - half)
    for i in range(half):
        pair = load_pair(source, i)
        store_f32(sink, i, low_value(pair))
        store_f32(odd, i, high_value(pair))
    if count & 1 != 0:
        store_f32(sink, half, bfloat_value(load_u16(source, count - 1)))


@njit
def _clear(sink, count):  # type: ignore[no-untyped-def]
    for i in range(count):
        store_f32(sink, i, np.float32(0.0))


@njit(fastmath={"contract"})
def _put(kind, sink, base, a, t, count):  # type: ignore[no-untyped-def]
    """base + t a, stored."""
    if kind != BF16:
        for i in range(count):
            store_f32(sink, i, load_f32(base, i) + load_f32(a, i) * t)
        return
    half = count >> 1
    more = 4 * (count - half)
    for i in range(half):
        low = nearest(load_f32(base, i) + load_f32(a, i) * t)
        high = nearest(load_f32(base + more, i) + load_f32(a + more, i) * t)
        store_pair(sink, i, join(low, high))
    if count & 1 != 0:
        last = nearest(load_f32(base, half) + load_f32(a, half) * t)
        store_u16(sink, count - 1, np.uint16(last >> np.uint32(16)))


@njit
def _beside(job, point, row, rows, scratch):  # type: ignore[no-untyped-def]
    """Rows [row, row + rows) of one point: x B, then tile by tile of the outputs."""
    kind, rank, columns, outputs = job[JOB.kind], job[JOB.rank], job[JOB.columns], job[JOB.outputs]
    size = np.int64(2 if kind == BF16 else 4)
    base, a, acc = scratch, scratch + 4 * TILE, scratch + 8 * TILE
    t = acc + 4 * TILE * ROWS
    first = point * job[JOB.rows] + row
    for r in range(rows):
        x = job[JOB.x] + size * (first + r) * columns
        for k in range(rank):
            b = job[JOB.right] + size * (point * job[JOB.right_member] + k * job[JOB.right_pitch])
            found = _dot_pairs(x, b, columns) if kind == BF16 else _dot_singles(x, b, columns)
            store_f32(t, r * rank + k, found * load_f32(job[JOB.scales], point * rank + k))
    for start in range(0, outputs, TILE):
        count = min(TILE, outputs - start)
        if job[JOB.bias] != 0:
            _widen(kind, job[JOB.bias] + size * (point * job[JOB.bias_member] + start), base, count)
        else:
            _clear(base, count)
        left = job[JOB.left] + size * (point * job[JOB.left_member] + start)
        for k in range(rank):
            _widen(kind, left + size * k * job[JOB.left_pitch], a, count)
            last = k == rank - 1
            for r in range(rows):
                own = acc + 4 * TILE * r
                y = job[JOB.y] + size * ((first + r) * outputs + start)
                share = load_f32(t, r * rank + k)
                if last:
                    _put(kind, y, own if k else base, a, share, count)
                elif k == 0:
                    _put(_SINGLE, own, base, a, share, count)
                else:
                    add_scaled(own, a, share, count)


@cache
def _entry() -> Any:
    """All items of a job, as a C function of its address."""
    fields, seen = len(JOB), digest()

    def share(data):  # type: ignore[no-untyped-def]
        _ = seen
        job = carray(data, (fields,), np.int64)
        thread = fetch_add(job[JOB.next_thread], 1)
        scratch = job[JOB.scratch] + job[JOB.scratch_bytes] * thread
        blocks = (job[JOB.rows] + ROWS - 1) // ROWS
        item = fetch_add(job[JOB.next_item], 1)
        while item < job[JOB.points] * blocks:
            row = item % blocks * ROWS
            _beside(job, item // blocks, row, min(ROWS, job[JOB.rows] - row), scratch)
            item = fetch_add(job[JOB.next_item], 1)

    return compiled("beside", share)


class Beside:
    """x W^T + bias + (x B) s A^T for every member, of x to come: all that does not depend on x is looked up beforehand.

    The tensors given are read when it is called; until then they stay where they are.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        left: torch.Tensor,
        right: torch.Tensor,
        scales: torch.Tensor,
        bias: torch.Tensor | None,
    ) -> None:
        """
        Args:
            weight: W [outputs, columns], float32 or bfloat16, and all other tensors but scales with it.
            left: A [points, outputs, rank].
            right: B [points, columns, rank].
            scales: float32 [points, rank] or [points, 1].
            bias: [outputs] or [points, outputs].
        """
        self._points, outputs, rank = left.shape
        left, right = _by_rank(left), _by_rank(right)
        a, b, of = left.stride(), right.stride(), 0
        if scales.shape[1] != rank or not scales.is_contiguous():
            scales = scales.expand(-1, rank).contiguous()
        if bias is not None:
            bias = bias if bias.stride(-1) == 1 else bias.contiguous()
            of = bias.stride(0) if bias.ndim == 2 else 0
        self._weight, self._outputs, self._columns = weight, outputs, weight.shape[1]
        self._kept = left, right, scales, bias  # whose addresses are in the job
        self._work = (self._columns + outputs) * rank * self._points  # products, for each row of x
        self._room = 4 * (TILE * (2 + ROWS) + ROWS * rank)
        self._job = np.array(
            (
                0, 0, right.data_ptr(), left.data_ptr(), 0 if bias is None else bias.data_ptr(), scales.data_ptr(),
                KINDS[weight.dtype], self._points, 0, self._columns, outputs, rank, b[0], b[2], a[0], a[2], of, 0, self._room,
                0, 0, 0, 0,
            ),
            dtype=np.int64,
        )  # fmt: skip
        self._at = at = self._job.ctypes.data
        self._job[JOB.next_item], self._job[JOB.next_thread] = at + 8 * len(JOB), at + 8 * len(JOB) + 8

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[points, ..., outputs] of x [points, ..., columns]."""
        flat = x.reshape(-1, self._columns).contiguous()
        y = self.beside(flat)
        return onto(y, flat, self._weight).view(*x.shape[:-1], self._outputs)

    def beside(self, flat: torch.Tensor) -> torch.Tensor:
        """bias + (x B) s A^T, [points * rows, outputs] of x [points * rows, columns], contiguous."""
        y = flat.new_empty(len(flat), self._outputs)
        rows, job = len(flat) // self._points, self._job
        threads = 1 if rows * self._work < _INLINE_WORK else torch.get_num_threads()
        job[JOB.x], job[JOB.y], job[JOB.rows] = flat.data_ptr(), y.data_ptr(), rows
        job[JOB.scratch] = _SCRATCH.get(threads * self._room)
        job[len(JOB) :] = 0
        together(_entry(), self._at, threads)
        return y


class _Scratch(threading.local):
    """Memory of all threads that share the work of this one, kept between calls."""

    memory = torch.empty(0, dtype=torch.uint8)

    def get(self, size: int) -> int:
        """Its address; it holds at least `size` bytes."""
        if self.memory.numel() < size:
            self.memory = torch.empty(size, dtype=torch.uint8)
        return self.memory.data_ptr()


_SCRATCH = _Scratch()


def _by_rank(factor: torch.Tensor) -> torch.Tensor:
    """[points, n, rank] with the elements of a rank side by side."""
    if factor.stride(1) == 1 or factor.shape[1] == 1:
        return factor
    return factor.transpose(1, 2).contiguous().transpose(1, 2)
