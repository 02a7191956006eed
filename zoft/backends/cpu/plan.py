"""Targets and moves as tables of integers: what the compiled kernel reads, and how the work is cut into items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from zoft.backends.base import Factors, Move, Rounding, Target
from zoft.directions import Direction, Distribution, Domain
from zoft.errors import UsageError

TILE_COLUMNS = 512  # a tile of 8 rows of float32 is 16 KiB
TILE_ELEMENTS = 8 * TILE_COLUMNS
NARROW = 32  # a parameter with at most this many columns is read as a run of elements
NARROW_LANES = (
    TILE_ELEMENTS // 8 + 3 * NARROW
)  # Philox lanes of a narrow tile; not a power of two: rows share no cache set
MAX_SLOTS = 64  # Rademacher terms whose words are held at once (more only where a single move has more)
RADEMACHER, GAUSSIAN, THIN = 0, 1, 2  # kinds of terms; thin: A B^T of factors that lie in memory
ROUNDING_TAG = int(Domain.ROUNDING) << 12
_MAX_COLUMNS = 8192  # of a slab: whole rows wherever possible, because strided slabs starve the prefetcher
_WORD_LANES = 1 << 15  # lanes of words held at once: 512 KiB
_ITEM_ELEMENTS = 1 << 16


class TargetColumns(NamedTuple):
    """One row a target; addresses are in bytes, rows and columns are those of the window."""

    source: int = 0
    sink: int = 1
    low_source: int = 2  # residual
    low_sink: int = 3
    kind: int = 4  # of storage
    rounding: int = 5
    decays: int = 6
    stream_low: int = 7
    stream_high: int = 8
    row: int = 9
    rows: int = 10
    column: int = 11
    columns: int = 12
    total_columns: int = 13
    first_term: int = 14  # from a term's row to that of the same term of this target, whose factors are its own
    fan: int = (
        15  # bytes from what one move writes to what the next one does; 0: the moves follow one another in one place
    )


class ItemColumns(NamedTuple):
    """One row a work item: rows of the whole parameter, columns of the window."""

    target: int = 0
    row: int = 1
    rows: int = 2
    column: int = 3
    columns: int = 4


class MoveColumns(NamedTuple):
    """One row a move: its terms [first, last), rounding key, the batch of moves whose words are held together, and whether it
    rounds to nearest whatever its target does.
    """

    first: int = 0
    last: int = 1
    seed: int = 2
    step: int = 3
    batch: int = 4
    nearest: int = 5


class TermColumns(NamedTuple):
    """One row a term; the last three of thin ones only, the three before them of others."""

    kind: int = 0
    seed: int = 1
    step: int = 2
    tag: int = 3
    left: int = 4  # address of A, float32 [rows of the target, rank]
    right: int = 5  # address of B^T, float32 [rank, columns of the target]
    rank: int = 6


class ScratchColumns(NamedTuple):
    """Addresses of a thread's buffers; `stride` is the lanes of one row of `words`."""

    words: int = 0
    stride: int = 1
    bits: int = 2
    z: int = 3
    normals: int = 4
    acc: int = 5


class JobFields(NamedTuple):
    """What the threads that share one piece of work are given: addresses of the tables and of two counters."""

    targets: int = 0
    target_count: int = 1
    items: int = 2
    item_count: int = 3
    moves: int = 4
    move_count: int = 5
    terms: int = 6
    term_count: int = 7
    scales: int = 8
    decays: int = 9
    scratch: int = 10  # one row of ScratchColumns a thread
    next_item: int = 11  # the item that the next free thread takes
    next_thread: int = 12  # the row of scratch that the next thread takes


TARGET, ITEM, MOVE, TERM, SCRATCH = TargetColumns(), ItemColumns(), MoveColumns(), TermColumns(), ScratchColumns()
JOB = JobFields()

_KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}
_ROUNDINGS = {Rounding.NEAREST: 0, Rounding.STOCHASTIC: 1, Rounding.RESIDUAL8: 2, Rounding.RESIDUAL16: 3}


@dataclass(frozen=True, slots=True)
class Moves:
    """Moves and their terms."""

    moves: np.ndarray  # [moves, 6] int64
    terms: np.ndarray  # [terms, 7] int64; with thin factors [targets x terms, 7]
    scales: np.ndarray  # [terms] float64, or [targets x terms]
    decays: np.ndarray  # [moves] float64
    slots: int  # Rademacher terms of the largest batch
    only_signs: bool  # every term is a Rademacher one, and there is at least one
    only_normals: bool  # every term is a Gaussian one, and every move has one
    single_terms: bool  # one term a move, at most one move rounded stochastically, all in one batch
    single_product: bool  # one move of one term, whose factors are columns
    decaying: bool
    term_count: int  # of one target

    @property
    def own_terms(self) -> int:
        """How many terms each target has for itself; 0: all have the same."""
        return self.term_count if len(self.terms) > self.term_count else 0

    @property
    def slab_columns(self) -> int:
        """The widest slab whose words fit the scratch."""
        lanes = _WORD_LANES // max(1, self.slots) // TILE_COLUMNS * TILE_COLUMNS
        return max(TILE_COLUMNS, min(_MAX_COLUMNS, lanes))


def tabulate(
    moves: Sequence[Move], rounding: Rounding, made: Sequence[Mapping[Direction, Factors]] | None = None
) -> Moves:
    """The tables of a list of moves. The last tuple's are kept: all modules of a pass are given the same one.

    The same and not an equal one: 0.0 equals -0.0, and what they add to -0.0 differs.

    Args:
        made: A and B^T of the directions that have thin factors, for each target; contiguous float32.
    """
    if made is not None:
        return _tabulate(moves, rounding, made)
    global _last
    kept, how, table = _last
    if moves is not kept or rounding is not how or table is None:
        table = _tabulate(moves, rounding, [{}])
        if type(moves) is tuple:
            _last = moves, rounding, table
    return table


_last: tuple[Sequence[Move], Rounding, Moves | None] = ((), Rounding.NEAREST, None)


def _tabulate(moves: Sequence[Move], rounding: Rounding, made: Sequence[Mapping[Direction, Factors]]) -> Moves:
    rows: list[tuple[int, ...]] = []
    terms: list[tuple[int, ...]] = []
    thin: list[tuple[int, Direction]] = []  # place of a term, and whose factors it has
    scales: list[float] = []
    batch, held, most = 0, 0, 0
    for move in moves:
        first, signs = len(terms), 0
        for term in move.terms:
            direction = term.direction
            scales.append(term.scale)
            if direction in made[0]:
                thin.append((len(terms), direction))
                terms.append((THIN, 0, 0, 0, 0, 0, len(made[0][direction][1])))
                continue
            rademacher = direction.distribution is Distribution.RADEMACHER
            signs += rademacher
            kind = RADEMACHER if rademacher else GAUSSIAN
            terms.append((kind, direction.seed, direction.step, direction.counter_tag, 0, 0, 0))
        if held and held + signs > MAX_SLOTS:
            batch, held = batch + 1, 0
        held += signs
        most = max(most, held)
        nearest = rounding is Rounding.NEAREST or (move.to_nearest and rounding is Rounding.STOCHASTIC)
        rows.append((first, len(terms), *move.rounding_key, batch, nearest))
    dithered = sum(not row[MOVE.nearest] for row in rows)
    return Moves(
        np.array(rows, dtype=np.int64).reshape(-1, len(MOVE)),
        _of_targets(terms, thin, made),
        np.array(scales * len(made), dtype=np.float64),
        np.array([move.decay for move in moves], dtype=np.float64),
        most,
        only_signs=bool(terms) and all(term[TERM.kind] == RADEMACHER for term in terms),
        only_normals=all(term[TERM.kind] == GAUSSIAN for term in terms)
        and all(row[MOVE.last] - row[MOVE.first] == 1 for row in rows),
        single_terms=batch == 0 and dithered <= 1 and all(row[MOVE.last] - row[MOVE.first] == 1 for row in rows),
        single_product=len(rows) == len(terms) == len(thin) == 1 and terms[0][TERM.rank] == 1,
        decaying=any(move.decay != 1.0 for move in moves),
        term_count=len(terms),
    )


def _of_targets(
    terms: list[tuple[int, ...]], thin: list[tuple[int, Direction]], made: Sequence[Mapping[Direction, Factors]]
) -> np.ndarray:
    """The terms of all targets, one target's below the other's: [targets x terms, 7]."""
    table = np.tile(np.array(terms, dtype=np.int64).reshape(-1, len(TERM)), (len(made), 1, 1))
    for place, direction in thin:
        pairs = [factors[direction] for factors in made]
        table[:, place, TERM.left] = [left.data_ptr() for left, _ in pairs]
        table[:, place, TERM.right] = [right.data_ptr() for _, right in pairs]
        table[:, place, TERM.rank] = [len(right) for _, right in pairs]
    return table.reshape(-1, len(TERM))


def describe(target: Target, rounding: Rounding, low_sink: torch.Tensor | None, first_term: int = 0) -> tuple[int, ...]:
    """The table row of one target, checked. `low_sink` takes the residual bits where the target's own must stay.

    Raises:
        UsageError: shape, device, layout, dtype or rounding that the kernel cannot handle; the message names it.
    """
    weight, window, residual, out = target.weight, target.window, target.residual, target.out
    if weight.numel() != window.rows * window.columns:
        raise UsageError(f"a weight of {weight.numel()} elements cannot fill a window of {window.shape}")
    kind = _KINDS.get(weight.dtype)
    if kind is None or weight.device.type != "cpu":
        raise UsageError(
            f"the cpu backend moves float32, bfloat16, float16 and float64 on the CPU, not {weight.dtype} on {weight.device}"
        )
    if out is not None and (out.shape != weight.shape or out.dtype is not weight.dtype or not out.is_contiguous()):
        raise UsageError(
            f"`out` must be contiguous {weight.dtype} of shape {tuple(weight.shape)}, "
            f"not {out.dtype} {tuple(out.shape)}"
        )
    low_source = low = 0
    if kind in (1, 2):
        if residual is not None or rounding.residual_dtype is not None:
            if (
                residual is None
                or kind != 1
                or residual.dtype is not rounding.residual_dtype
                or not residual.is_contiguous()
            ):
                given = "no residual" if residual is None else f"a residual of {residual.dtype}"
                raise UsageError(f"rounding {rounding.value} cannot store {weight.dtype} with {given}")
            low_source = residual.data_ptr()
            low = low_source if low_sink is None else low_sink.data_ptr()
    source = weight.data_ptr()
    return (
        source, source if out is None else out.data_ptr(), low_source, low, kind, _ROUNDINGS[rounding], int(target.decays),
        window.stream & 0xFFFFFFFF, window.stream >> 32,
        window.row, window.rows, window.column, window.columns, window.total_columns, first_term, 0,
    )  # fmt: skip


def entry_of(row: tuple[int, ...], moves: Moves) -> str:
    """The compiled entry point (`kernel.entry`) that does one target's work."""
    kind = row[TARGET.kind]
    if kind == 3:
        return "double"
    if row[TARGET.columns] <= NARROW:
        return "narrow"
    if moves.decaying and row[TARGET.decays]:
        return "wide"
    in_place = row[TARGET.sink] == row[TARGET.source]
    if moves.single_product and in_place and kind <= 1 and row[TARGET.rounding] != 2:
        return "thin"
    if moves.only_normals and (kind == 0 or (kind == 1 and row[TARGET.rounding] == 0)):
        return "normals"
    if moves.only_signs:
        if kind == 0:
            return "signs"
        if kind == 1 and moves.single_terms and (row[TARGET.rounding] <= 1 or (row[TARGET.rounding] == 3 and in_place)):
            return "bfloat"
    return "wide"


def cut(rows: Sequence[tuple[int, ...]], slab_columns: int) -> np.ndarray:
    """Work items of all targets.

    Slabs are cut at multiples of 128 rows of the whole parameter (of whole tiles for narrow targets), so that no Philox block
    is drawn by two items for want of alignment.

    Returns:
        int64 [items, 5].
    """
    pieces = [_cut(row[TARGET.row], row[TARGET.rows], row[TARGET.columns], slab_columns) for row in rows]
    items = np.concatenate(pieces)
    items[:, ITEM.target] = np.repeat(np.arange(len(rows)), [len(piece) for piece in pieces])
    return items


@lru_cache(maxsize=4096)
def _cut(row: int, rows: int, columns: int, slab_columns: int) -> np.ndarray:
    """The items of one target, as the first."""
    step = 128 if columns > NARROW else max(128, TILE_ELEMENTS // columns // 128 * 128)
    step *= max(1, _ITEM_ELEMENTS // (step * columns))
    stop, items = row + rows, []
    while row < stop:
        end = min(stop, (row // step + 1) * step)
        lefts = range(0, columns, slab_columns)
        items += [(0, row, end - row, left, min(slab_columns, columns - left)) for left in lefts]
        row = end
    return np.array(items, dtype=np.int64)


def look_up(row: tuple[int, ...], ids: np.ndarray, size: int, slab_columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Single rows of a matrix, in any order, written one below the other.

    Args:
        row: describes the matrix's first row and where the first result goes.
        ids: rows of the matrix, checked.
        size: bytes of an element.

    Returns:
        The table of targets int64 [ids, 16] and the items int64 [pieces, 5].
    """
    columns = row[TARGET.columns]
    table = np.tile(np.array(row, dtype=np.int64), (len(ids), 1))
    table[:, TARGET.source] += ids * (columns * size)
    table[:, TARGET.sink] += np.arange(len(ids)) * (columns * size)
    table[:, TARGET.row] += ids
    pieces = []
    for left in range(0, columns, slab_columns):
        items = np.empty((len(ids), len(ITEM)), dtype=np.int64)
        items[:, ITEM.target] = np.arange(len(ids))
        items[:, ITEM.row] = table[:, TARGET.row]
        items[:, ITEM.rows] = 1
        items[:, ITEM.column], items[:, ITEM.columns] = left, min(slab_columns, columns - left)
        pieces.append(items)
    return table, np.concatenate(pieces)
