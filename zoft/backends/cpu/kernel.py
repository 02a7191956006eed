"""The one compiled entry point of the CPU backend: `axpby` over a range of work items of a plan (`zoft.backends.cpu.plan`).

A work item is a slab of whole block rows (128 rows share one Philox block a column) by a range of columns. Inside it, a tile of
8 rows by 512 columns lives in a float32 buffer that stays in the first-level cache while every move of the plan is applied to
it, so many moves cost one pass over memory. Words of Rademacher terms are drawn once a slab (one Philox call per 128
elements); normals and rounding bits where they are used.

Parameters with few columns (biases, norms, low-rank factors) are narrow: there a tile is a run of consecutive elements and
random numbers are spread into the order of the elements first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from zoft.backends.cpu.memory import bits_of, float_of, load_f32, load_f64, load_u32, store_f32, store_f64
from zoft.backends.cpu.plan import (
    ITEM,
    MOVE,
    NARROW,
    NARROW_LANES,
    RADEMACHER,
    ROUNDING_TAG,
    SCRATCH,
    TARGET,
    TERM,
    TILE_COLUMNS,
    TILE_ELEMENTS,
)
from zoft.backends.cpu.random import normal_rows, philox_row, spread_bits, spread_normals, spread_signs
from zoft.backends.cpu.storage import F64, RESIDUAL8, RESIDUAL16, load_row, round_row, store_row

_SIGN = np.uint32(0x80000000)
_ROW_BYTES = 4 * TILE_COLUMNS


@njit
def _add_signs(acc, words, bit, scale, count):  # type: ignore[no-untyped-def]
    """acc += scale or -scale, by one bit of each word."""
    up, magnitude = np.uint32(31 - bit), bits_of(scale)
    for i in range(count):
        sign = np.uint32(np.uint32(load_u32(words, i) << up) & _SIGN)
        store_f32(acc, i, load_f32(acc, i) + float_of(np.uint32(sign ^ magnitude)))


@njit
def _add_scaled(acc, z, scale, count):  # type: ignore[no-untyped-def]
    for i in range(count):
        store_f32(acc, i, load_f32(acc, i) + load_f32(z, i) * scale)


@njit
def _multiply(acc, factor, count):  # type: ignore[no-untyped-def]
    for i in range(count):
        store_f32(acc, i, load_f32(acc, i) * factor)


@njit
def _uses_bits(kind, rounding):  # type: ignore[no-untyped-def]
    return kind != 0 and rounding != 0 and rounding != RESIDUAL16


@njit
def _draw_words(moves, terms, first, last, target, block, count, scratch):  # type: ignore[no-untyped-def]
    """Words of every Rademacher term of moves [first, last), one slot a term."""
    slot = 0
    for move in range(first, last):
        for term in range(moves[move, MOVE.first], moves[move, MOVE.last]):
            if terms[term, TERM.kind] == RADEMACHER:
                philox_row(
                    scratch[SCRATCH.words] + 16 * scratch[SCRATCH.stride] * slot, scratch[SCRATCH.stride], block, count,
                    terms[term, TERM.tag], target[TARGET.stream_low], target[TARGET.stream_high],
                    terms[term, TERM.seed], terms[term, TERM.step],
                )  # fmt: skip
                slot += 1


@njit
def _move_tile(moves, terms, scales, decays, first, last, target, row, rows, column, offset, count, scratch):  # type: ignore[no-untyped-def]
    """Moves [first, last) on `rows` (at most 8, of one group of 8) by `count` columns in the tile buffer.

    `row` and `column` are those of the whole parameter; `offset` is the tile's first column within the slab's words.
    """
    acc, stride = scratch[SCRATCH.acc], scratch[SCRATCH.stride]
    kind, rounding, total = target[TARGET.kind], target[TARGET.rounding], target[TARGET.total_columns]
    slot = 0
    for move in range(first, last):
        if target[TARGET.decays] != 0 and decays[move] != 1.0:
            for r in range(rows):
                _multiply(acc + r * _ROW_BYTES, np.float32(decays[move]), count)
        for term in range(moves[move, MOVE.first], moves[move, MOVE.last]):
            scale = np.float32(scales[term])
            if terms[term, TERM.kind] == RADEMACHER:
                for r in range(rows):
                    lane = (row + r) & 127
                    words = scratch[SCRATCH.words] + 4 * (stride * (4 * slot + (lane >> 5)) + offset)
                    _add_signs(acc + r * _ROW_BYTES, words, lane & 31, scale, count)
                slot += 1
                continue
            for group in range(row >> 2, ((row + rows - 1) >> 2) + 1):
                philox_row(
                    scratch[SCRATCH.bits], TILE_COLUMNS, group * total + column, count, terms[term, TERM.tag],
                    target[TARGET.stream_low], target[TARGET.stream_high], terms[term, TERM.seed], terms[term, TERM.step],
                )  # fmt: skip
                normal_rows(scratch[SCRATCH.z], scratch[SCRATCH.bits], TILE_COLUMNS, count)
                for r in range(max(row, group * 4), min(row + rows, group * 4 + 4)):
                    z = scratch[SCRATCH.z] + (r & 3) * _ROW_BYTES
                    _add_scaled(acc + (r - row) * _ROW_BYTES, z, scale, count)
        if _uses_bits(kind, rounding):
            philox_row(
                scratch[SCRATCH.bits], TILE_COLUMNS, (row >> 3) * total + column, count, ROUNDING_TAG,
                target[TARGET.stream_low], target[TARGET.stream_high], moves[move, MOVE.seed], moves[move, MOVE.step],
            )  # fmt: skip
        for r in range(rows):
            lane = (row + r) & 7
            bits = scratch[SCRATCH.bits] + (lane >> 1) * _ROW_BYTES
            round_row(kind, rounding, acc + r * _ROW_BYTES, bits, (lane & 1) * 16, count)


@njit
def _wide(moves, terms, scales, decays, target, item, scratch):  # type: ignore[no-untyped-def]
    """All moves on one slab, in batches whose words fit the scratch."""
    columns, acc = target[TARGET.columns], scratch[SCRATCH.acc]
    kind, rounding, total = target[TARGET.kind], target[TARGET.rounding], target[TARGET.total_columns]
    left, width = item[ITEM.column], item[ITEM.columns]
    stop = item[ITEM.row] + item[ITEM.rows]
    for batch in range(1 + moves[len(moves) - 1, MOVE.batch]):
        first = 0
        while moves[first, MOVE.batch] < batch:
            first += 1
        last = first
        while last < len(moves) and moves[last, MOVE.batch] == batch:
            last += 1
        source = target[TARGET.source] if batch == 0 else target[TARGET.sink]
        low = target[TARGET.low_source] if batch == 0 else target[TARGET.low_sink]
        drawn = -1
        row = item[ITEM.row]
        while row < stop:  # groups of 8 rows that share rounding bits
            rows = min(stop, ((row >> 3) + 1) << 3) - row
            if row >> 7 != drawn:
                drawn = row >> 7
                block = drawn * total + target[TARGET.column] + left
                _draw_words(moves, terms, first, last, target, block, width, scratch)
            for offset in range(0, width, TILE_COLUMNS):
                count = min(TILE_COLUMNS, width - offset)
                start = (row - target[TARGET.row]) * columns + left + offset
                for r in range(rows):
                    load_row(kind, rounding, source, low, start + r * columns, acc + r * _ROW_BYTES, count)
                _move_tile(
                    moves, terms, scales, decays, first, last, target,
                    row, rows, target[TARGET.column] + left + offset, offset, count, scratch,
                )  # fmt: skip
                for r in range(rows):
                    store_row(kind, rounding, acc + r * _ROW_BYTES, target[TARGET.sink], target[TARGET.low_sink],
                              start + r * columns, count)  # fmt: skip
            row += rows


@njit
def _draw_blocks(target, lanes, row, rows, tag, seed, step, scratch):  # type: ignore[no-untyped-def]
    """Words of all blocks (`lanes` rows each) that rows [row, row + rows) of a narrow target touch.

    Returns:
        The number of Philox lanes drawn, block row by block row.
    """
    columns, total = target[TARGET.columns], target[TARGET.total_columns]
    first, last = row // lanes, (row + rows - 1) // lanes + 1
    low, high = target[TARGET.stream_low], target[TARGET.stream_high]
    words, stride = scratch[SCRATCH.bits], NARROW_LANES
    if columns == total:
        philox_row(words, stride, first * total, (last - first) * columns, tag, low, high, seed, step)
    else:
        for group in range(first, last):
            at = words + 4 * (group - first) * columns
            philox_row(at, stride, group * total + target[TARGET.column], columns, tag, low, high, seed, step)
    return (last - first) * columns


@njit
def _narrow_z(target, terms, term, row, rows, scratch):  # type: ignore[no-untyped-def]
    """z of one term over rows [row, row + rows) of a narrow target, in the order of its elements."""
    columns, z, bits = target[TARGET.columns], scratch[SCRATCH.z], scratch[SCRATCH.bits]
    lanes = 128 if terms[term, TERM.kind] == RADEMACHER else 4
    drawn = _draw_blocks(
        target, lanes, row, rows, terms[term, TERM.tag], terms[term, TERM.seed], terms[term, TERM.step], scratch
    )
    if lanes == 128:
        spread_signs(z, bits, NARROW_LANES, drawn, columns, row & 127, rows)
        return
    normal_rows(scratch[SCRATCH.normals], bits, NARROW_LANES, drawn)
    spread_normals(z, scratch[SCRATCH.normals], NARROW_LANES, drawn, columns, row & 3, rows)


@njit
def _narrow(moves, terms, scales, decays, target, item, scratch):  # type: ignore[no-untyped-def]
    """All moves on one slab of a narrow target, tile by tile of consecutive elements."""
    columns, acc = target[TARGET.columns], scratch[SCRATCH.acc]
    kind, rounding = target[TARGET.kind], target[TARGET.rounding]
    tile_rows = max(128, TILE_ELEMENTS // columns // 128 * 128)
    row, stop = item[ITEM.row], item[ITEM.row] + item[ITEM.rows]
    while row < stop:
        rows = min(stop, (row // tile_rows + 1) * tile_rows) - row
        start, count = (row - target[TARGET.row]) * columns, rows * columns
        load_row(kind, rounding, target[TARGET.source], target[TARGET.low_source], start, acc, count)
        for move in range(len(moves)):
            if target[TARGET.decays] != 0 and decays[move] != 1.0:
                _multiply(acc, np.float32(decays[move]), count)
            for term in range(moves[move, MOVE.first], moves[move, MOVE.last]):
                _narrow_z(target, terms, term, row, rows, scratch)
                _add_scaled(acc, scratch[SCRATCH.z], np.float32(scales[term]), count)
            if _uses_bits(kind, rounding):
                drawn = _draw_blocks(
                    target, 8, row, rows, ROUNDING_TAG, moves[move, MOVE.seed], moves[move, MOVE.step], scratch
                )
                spread_bits(scratch[SCRATCH.z], scratch[SCRATCH.bits], NARROW_LANES, drawn, columns, row & 7, rows)
            round_row(kind, rounding, acc, scratch[SCRATCH.z], 0, count)
        store_row(kind, rounding, acc, target[TARGET.sink], target[TARGET.low_sink], start, count)
        row += rows


@njit
def _double(moves, terms, scales, decays, target, item, scratch):  # type: ignore[no-untyped-def]
    """A float64 target, one row segment at a time: z is float32, the accumulator float64. Correct rather than fast."""
    columns, z = target[TARGET.columns], scratch[SCRATCH.z]
    left, width = item[ITEM.column], item[ITEM.columns]
    for row in range(item[ITEM.row], item[ITEM.row] + item[ITEM.rows]):
        for offset in range(0, width, TILE_COLUMNS):
            count = min(TILE_COLUMNS, width - offset)
            start = (row - target[TARGET.row]) * columns + left + offset
            at = target[TARGET.sink] + 8 * start
            for i in range(count):
                store_f64(at, i, load_f64(target[TARGET.source] + 8 * start, i))
            for move in range(len(moves)):
                if target[TARGET.decays] != 0:
                    for i in range(count):
                        store_f64(at, i, load_f64(at, i) * decays[move])
                for term in range(moves[move, MOVE.first], moves[move, MOVE.last]):
                    lanes = 128 if terms[term, TERM.kind] == RADEMACHER else 4
                    block = (row // lanes) * target[TARGET.total_columns] + target[TARGET.column] + left + offset
                    philox_row(
                        scratch[SCRATCH.bits], NARROW_LANES, block, count, terms[term, TERM.tag],
                        target[TARGET.stream_low], target[TARGET.stream_high], terms[term, TERM.seed], terms[term, TERM.step],
                    )  # fmt: skip
                    if lanes == 128:
                        spread_signs(z, scratch[SCRATCH.bits], NARROW_LANES, count, count, row & 127, 1)
                    else:
                        normal_rows(scratch[SCRATCH.normals], scratch[SCRATCH.bits], NARROW_LANES, count)
                        spread_normals(z, scratch[SCRATCH.normals], NARROW_LANES, count, count, row & 3, 1)
                    for i in range(count):
                        store_f64(at, i, load_f64(at, i) + np.float64(load_f32(z, i)) * scales[term])


def compile_sweep(digest: str) -> Any:
    """The compiled `sweep(targets, items, moves, terms, scales, decays, scratch, first, last)`.

    numba caches on disk by the file and the closure of this one function, not by what it calls: `digest`, of all the sources
    in this folder, is part of the closure so that an edited callee is never served from an old cache.
    """

    @njit(cache=True, nogil=True)
    def sweep(targets, items, moves, terms, scales, decays, scratch, first, last):  # type: ignore[no-untyped-def]
        _ = digest
        for index in range(first, last):
            item = items[index]
            target = targets[item[ITEM.target]]
            if target[TARGET.kind] == F64:
                _double(moves, terms, scales, decays, target, item, scratch)
            elif target[TARGET.columns] <= NARROW:
                _narrow(moves, terms, scales, decays, target, item, scratch)
            else:
                _wide(moves, terms, scales, decays, target, item, scratch)

    return sweep
