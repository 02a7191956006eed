"""The CPU backend: compiled once by numba, threaded, one pass over the weights however many moves there are."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np
import torch

from zoft.backends.base import Factors, Make, Move, Point, Rounding, Target
from zoft.backends.cpu import plan
from zoft.backends.cpu.kernel import entry
from zoft.backends.cpu.threads import together
from zoft.backends.low_rank import Scales, by_rank, check_low_rank, low_rank_products
from zoft.backends.reference import ReferenceBackend
from zoft.directions import Direction

_INLINE_WORK = 1 << 16  # elements times terms below which another thread costs more than it saves


class _Buffers(threading.local):
    """The buffers of all threads that share the work of this one, kept between calls."""

    memory: np.ndarray | None = None
    threads: int = 0
    words: int = 0
    lanes: int = 0
    addresses: np.ndarray

    def get(self, threads: int, stride: int, slots: int) -> np.ndarray:
        """[threads, 6]: addresses of buffers that hold `slots` rows of words of `stride` lanes, for each thread."""
        if self.memory is None or threads > self.threads or stride > self.lanes or stride * slots > self.words:
            self.threads, self.lanes = max(self.threads, threads), max(self.lanes, stride)
            self.words = max(self.words, stride * max(slots, 1))
            parts = {
                plan.SCRATCH.acc: plan.TILE_ELEMENTS,
                plan.SCRATCH.z: 8 * plan.NARROW_LANES,
                plan.SCRATCH.bits: 4 * max(plan.NARROW_LANES, self.lanes),
                plan.SCRATCH.normals: 8 * plan.NARROW_LANES,
                plan.SCRATCH.words: 4 * self.words,
            }
            pitch = -(-4 * sum(parts.values()) // 64) * 64 + 64
            self.memory = np.empty(self.threads * pitch + 64, dtype=np.uint8)
            self.addresses = np.zeros((self.threads, len(plan.SCRATCH)), dtype=np.int64)
            first = -(-self.memory.ctypes.data // 64) * 64
            at = first + pitch * np.arange(self.threads)
            for name, elements in parts.items():
                self.addresses[:, name] = at
                at += 4 * elements
        self.addresses[:, plan.SCRATCH.stride] = stride
        return self.addresses


_BUFFERS = _Buffers()


class CpuBackend(ReferenceBackend):
    """numba: vectorised for whatever the machine has, `torch.get_num_threads()` threads, bits independent of their number.

    Ops that are not compiled here are the reference's, on top of the compiled ones.
    """

    name = "cpu"

    def axpby_(self, target: Target, moves: Sequence[Move], rounding: Rounding = Rounding.NEAREST) -> None:
        self.sweep_((target,), moves, rounding)

    def sweep_(self, targets: Sequence[Target], moves: Sequence[Move], rounding: Rounding = Rounding.NEAREST) -> None:
        if not moves:
            for target in targets:
                if target.out is not None:
                    target.out.detach().copy_(target.weight.detach())
            return
        _write(targets, plan.tabulate(moves, rounding), rounding)

    def takes_factors(self, target: Target) -> bool:
        return target.weight.dtype is not torch.float64 and target.window.columns > plan.NARROW

    def along_factors_(self, targets: Sequence[Target], moves: Sequence[Move], rounding: Rounding, make: Make) -> None:
        thin = {term.direction for move in moves for term in move.terms if term.direction.form is not None}
        made: list[dict[Direction, Factors]] = []
        for target in targets:
            pairs = {z: make(z, target.window, target.weight.device) for z in thin}
            made.append({z: (left.contiguous(), right.t().contiguous()) for z, (left, right) in pairs.items()})
        _write(targets, plan.tabulate(moves, rounding, made), rounding)

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
            _share(plan.entry_of(row, moves), table, items, moves)
        return rows.view(*ids.shape, window.columns)

    def low_rank(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        left: torch.Tensor,
        right: torch.Tensor,
        scales: Scales,
        bias: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Of few rank-one parts, what they add is written by one compiled pass; of more, the vendor's products are as quick."""
        if not x.numel():
            return super().low_rank(x, weight, left, right, scales, bias)
        check_low_rank(x, weight, left, right, scales, bias)
        return self.low_rank_ready(weight, left, right, scales, bias)(x)

    def low_rank_ready(
        self, weight: torch.Tensor, left: torch.Tensor, right: torch.Tensor, scales: Scales, bias: torch.Tensor | None
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        from zoft.backends.cpu.beside import KINDS, MOST_RANK, Beside  # which needs numba

        alike = all(t.dtype is weight.dtype for t in (left, right, bias) if t is not None)  # others are refused there
        if left.shape[-1] > MOST_RANK or weight.dtype not in KINDS or not left.numel() or not alike:
            return lambda x: low_rank_products(x, weight, left, right, scales, bias)
        return Beside(weight, left, right, by_rank(scales, weight), bias)


def _write(targets: Sequence[Target], table: plan.Moves, rounding: Rounding) -> None:
    """Apply the moves to every target; those that are not contiguous, through a copy."""
    kept: list[torch.Tensor] = []  # temporaries whose addresses are in the tables
    scattered: list[tuple[torch.Tensor, torch.Tensor]] = []  # (non-contiguous weight, its contiguous copy)
    rows: list[tuple[int, ...]] = []
    for number, target in enumerate(targets):
        if target.weight.numel() == 0:
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
        rows.append(plan.describe(target, rounding, low_sink, number * table.own_terms))
    if rows:
        _run(rows, table)
    for weight, copy in scattered:
        weight.detach().copy_(copy)


def _run(rows: list[tuple[int, ...]], moves: plan.Moves) -> None:
    """Cut the work into items and share them between threads."""
    by_entry: dict[str, list[tuple[int, ...]]] = {}
    for row in rows:
        by_entry.setdefault(plan.entry_of(row, moves), []).append(row)
    for name, group in by_entry.items():
        _share(name, np.array(group, dtype=np.int64), plan.cut(group, moves.slab_columns), moves)


def _share(name: str, targets: np.ndarray, items: np.ndarray, moves: plan.Moves) -> None:
    """Have all items of one entry point done, by as many threads as torch uses."""
    stride = min(moves.slab_columns, int(targets[:, plan.TARGET.columns].max()))
    elements = int(items[:, plan.ITEM.rows] @ items[:, plan.ITEM.columns])
    few = len(items) == 1 or elements * max(1, moves.term_count) < _INLINE_WORK
    threads = 1 if few else min(torch.get_num_threads(), len(items))
    scratch, counters = _BUFFERS.get(threads, stride, moves.slots), np.zeros(2, dtype=np.int64)
    at = counters.ctypes.data
    job = np.array(
        (
            targets.ctypes.data, len(targets), items.ctypes.data, len(items), moves.moves.ctypes.data, len(moves.moves),
            moves.terms.ctypes.data, len(moves.terms), moves.scales.ctypes.data, moves.decays.ctypes.data,
            scratch.ctypes.data, at, at + 8,
        ),
        dtype=np.int64,
    )  # fmt: skip
    together(entry(name), job.ctypes.data, threads)
