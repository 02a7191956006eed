"""The one compiled entry point of the CPU backend: `axpby` over a range of work items of a plan (`zoft.backends.cpu.plan`).

A work item is a slab of whole block rows (128 rows share one Philox block a column) by a range of columns. Inside it, a tile
of 8 rows by 512 columns stays in the first-level cache (16-bit weights as float32 in a buffer) while every move of the plan is
applied to it, so many moves cost one pass over memory. Words of Rademacher terms are drawn once a slab (one Philox call per
128 elements); normals and rounding bits where they are used.

Parameters with few columns (biases, norms, low-rank factors) are narrow: there a tile is a run of consecutive elements and
random numbers are spread into the order of the elements first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from zoft.backends.cpu.memory import (
    bits_of,
    float_of,
    load_f32,
    load_f64,
    load_u16,
    load_u32,
    shift_left,
    shift_right,
    store_f32,
    store_f64,
    store_u16,
)
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
from zoft.backends.cpu.storage import (
    BF16,
    F32,
    F64,
    NEAREST,
    RESIDUAL16,
    STOCHASTIC,
    bfloat_dithered,
    bfloat_nearest,
    bfloat_value,
    copy_halves,
    load_row,
    round_row,
    store_row,
)

_U16 = np.uint32(16)
_SIGN = np.uint32(0x80000000)
_ROW_BYTES = 4 * TILE_COLUMNS


@njit
def _add_signs(acc, words, bit, scale, count):  # type: ignore[no-untyped-def]
    """acc += scale or -scale, by one bit of each word."""
    up, magnitude = np.uint32(31 - bit), bits_of(scale)
    for i in range(count):
        sign = np.uint32(shift_left(load_u32(words, i), up) & _SIGN)
        store_f32(acc, i, load_f32(acc, i) + float_of(np.uint32(sign ^ magnitude)))


@njit
def _add_four_signs(acc, words, slot_bytes, bit, a, b, c, d, count):  # type: ignore[no-untyped-def]
    """The next four terms of a long list in one pass over `acc`, added one at a time in their order."""
    up = np.uint32(31 - bit)
    a, b, c, d = bits_of(a), bits_of(b), bits_of(c), bits_of(d)
    words_b, words_c, words_d = words + slot_bytes, words + 2 * slot_bytes, words + 3 * slot_bytes
    for i in range(count):
        value = load_f32(acc, i) + float_of(np.uint32(np.uint32(shift_left(load_u32(words, i), up) & _SIGN) ^ a))
        value = value + float_of(np.uint32(np.uint32(shift_left(load_u32(words_b, i), up) & _SIGN) ^ b))
        value = value + float_of(np.uint32(np.uint32(shift_left(load_u32(words_c, i), up) & _SIGN) ^ c))
        value = value + float_of(np.uint32(np.uint32(shift_left(load_u32(words_d, i), up) & _SIGN) ^ d))
        store_f32(acc, i, value)


@njit
def _add_bfloat_signs(acc, words, bit, scale, bits, shift, nearest, count):  # type: ignore[no-untyped-def]
    """The most frequent write of all, load to store in one loop: one Rademacher term on bfloat16.

    In place only: with a second pointer, the compiler's test for overlap would send every in-place call to a scalar loop.
    """
    up, magnitude, down = np.uint32(31 - bit), bits_of(scale), np.uint32(shift)
    if nearest:
        for i in range(count):
            sign = np.uint32(shift_left(load_u32(words, i), up) & _SIGN)
            value = bfloat_value(load_u16(acc, i)) + float_of(np.uint32(sign ^ magnitude))
            store_u16(acc, i, np.uint16(bfloat_nearest(bits_of(value)) >> _U16))
    else:
        for i in range(count):
            sign = np.uint32(shift_left(load_u32(words, i), up) & _SIGN)
            value = bfloat_value(load_u16(acc, i)) + float_of(np.uint32(sign ^ magnitude))
            dither = np.uint32(shift_right(load_u32(bits, i), down) & np.uint32(0xFFFF))
            store_u16(acc, i, np.uint16(bfloat_dithered(bits_of(value), dither) >> _U16))


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
    return kind != F32 and rounding != NEAREST and rounding != RESIDUAL16


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
def _move_tile(
    moves, terms, scales, decays, first, last, target, acc, pitch, row, rows, column, offset, count, scratch
):  # type: ignore[no-untyped-def]
    """Moves [first, last) on `rows` (at most 8, of one group of 8) by `count` columns of float32 at `acc`.

    `pitch` is the bytes from one row to the next; `row` and `column` are those of the whole parameter; `offset` is the tile's
    first column within the slab's words.
    """
    stride = scratch[SCRATCH.stride]
    kind, rounding, total = target[TARGET.kind], target[TARGET.rounding], target[TARGET.total_columns]
    slot = 0
    for move in range(first, last):
        if target[TARGET.decays] != 0 and decays[move] != 1.0:
            for r in range(rows):
                _multiply(acc + r * pitch, np.float32(decays[move]), count)
        for term in range(moves[move, MOVE.first], moves[move, MOVE.last]):
            scale = np.float32(scales[term])
            if terms[term, TERM.kind] == RADEMACHER:
                for r in range(rows):
                    lane = (row + r) & 127
                    words = scratch[SCRATCH.words] + 4 * (stride * (4 * slot + (lane >> 5)) + offset)
                    _add_signs(acc + r * pitch, words, lane & 31, scale, count)
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
                    _add_scaled(acc + (r - row) * pitch, z, scale, count)
        if _uses_bits(kind, rounding):
            philox_row(
                scratch[SCRATCH.bits], TILE_COLUMNS, (row >> 3) * total + column, count, ROUNDING_TAG,
                target[TARGET.stream_low], target[TARGET.stream_high], moves[move, MOVE.seed], moves[move, MOVE.step],
            )  # fmt: skip
        for r in range(rows):
            lane = (row + r) & 7
            bits = scratch[SCRATCH.bits] + (lane >> 1) * _ROW_BYTES
            round_row(kind, rounding, acc + r * pitch, bits, (lane & 1) * 16, count)


@njit
def _only_signs(moves, terms, decays, first, last, decaying):  # type: ignore[no-untyped-def]
    """Do moves [first, last) only add Rademacher terms?"""
    for move in range(first, last):
        if decaying and decays[move] != 1.0:
            return False
    for term in range(moves[first, MOVE.first], moves[last - 1, MOVE.last]):
        if terms[term, TERM.kind] != RADEMACHER:
            return False
    return True


@njit
def _sum_signs(scales, first, last, acc, pitch, row, rows, offset, count, scratch):  # type: ignore[no-untyped-def]
    """Rademacher terms [first, last), one word slot each, on float32 rows that need no rounding between them."""
    slot_bytes = 16 * scratch[SCRATCH.stride]
    for r in range(rows):
        lane = (row + r) & 127
        words = scratch[SCRATCH.words] + 4 * (scratch[SCRATCH.stride] * (lane >> 5) + offset)
        term, at = first, acc + r * pitch
        while term + 4 <= last:
            a, b = np.float32(scales[term]), np.float32(scales[term + 1])
            c, d = np.float32(scales[term + 2]), np.float32(scales[term + 3])
            _add_four_signs(at, words, slot_bytes, lane & 31, a, b, c, d, count)
            term, words = term + 4, words + 4 * slot_bytes
        while term < last:
            _add_signs(at, words, lane & 31, np.float32(scales[term]), count)
            term, words = term + 1, words + slot_bytes


@njit
def _bfloat_tile(target, source, scale, seed, step, start, row, rows, column, offset, count, scratch):  # type: ignore[no-untyped-def]
    """One Rademacher term on a bfloat16 tile, rounded to nearest or stochastically, without a buffer between."""
    nearest, bits, stride = target[TARGET.rounding] == NEAREST, scratch[SCRATCH.bits], scratch[SCRATCH.stride]
    if not nearest:
        philox_row(
            bits, TILE_COLUMNS, (row >> 3) * target[TARGET.total_columns] + column, count, ROUNDING_TAG,
            target[TARGET.stream_low], target[TARGET.stream_high], seed, step,
        )  # fmt: skip
    for r in range(rows):
        lane, at = (row + r) & 127, 2 * (start + r * target[TARGET.columns])
        words = scratch[SCRATCH.words] + 4 * (stride * (lane >> 5) + offset)
        dither = bits + ((lane & 7) >> 1) * _ROW_BYTES
        acc = target[TARGET.sink] + at
        if source != target[TARGET.sink]:
            copy_halves(acc, source + at, count)
        _add_bfloat_signs(acc, words, lane & 31, scale, dither, (lane & 1) * 16, nearest, count)


@njit
def _wide_batch(moves, terms, scales, decays, target, item, first, last, again, scratch):  # type: ignore[no-untyped-def]
    """Moves [first, last) on one slab; `again` where earlier moves were stored in the sink already."""
    columns, total = target[TARGET.columns], target[TARGET.total_columns]
    kind, rounding, sink = target[TARGET.kind], target[TARGET.rounding], target[TARGET.sink]
    left, width, stop = item[ITEM.column], item[ITEM.columns], item[ITEM.row] + item[ITEM.rows]
    source = sink if again else target[TARGET.source]
    low = target[TARGET.low_sink] if again else target[TARGET.low_source]
    low_sink = target[TARGET.low_sink]
    term, terms_end = moves[first, MOVE.first], moves[last - 1, MOVE.last]
    signs = _only_signs(moves, terms, decays, first, last, target[TARGET.decays] != 0)
    sums = signs and kind == F32
    fused = signs and kind == BF16 and rounding <= STOCHASTIC and last - first == 1 and terms_end - term == 1
    drawn = -1
    row = item[ITEM.row]
    while row < stop:  # groups of 8 rows that share rounding bits
        rows = min(stop, ((row >> 3) + 1) << 3) - row
        if row >> 7 != drawn:
            drawn = row >> 7
            block = drawn * total + target[TARGET.column] + left
            _draw_words(moves, terms, first, last, target, block, width, scratch)
        step = width if sums and terms_end - term <= 4 else TILE_COLUMNS
        for offset in range(0, width, step):
            count = min(step, width - offset)
            start = (row - target[TARGET.row]) * columns + left + offset
            column = target[TARGET.column] + left + offset
            if fused:
                _bfloat_tile(
                    target, source, np.float32(scales[term]), moves[first, MOVE.seed], moves[first, MOVE.step],
                    start, row, rows, column, offset, count, scratch,
                )  # fmt: skip
                continue
            acc, pitch = scratch[SCRATCH.acc], _ROW_BYTES
            if kind == F32:  # the weights themselves are the accumulator
                acc, pitch = sink + 4 * start, 4 * columns
            if kind != F32 or source != sink:
                for r in range(rows):
                    load_row(kind, rounding, source, low, start + r * columns, acc + r * pitch, count)
            if sums:
                _sum_signs(scales, term, terms_end, acc, pitch, row, rows, offset, count, scratch)
                continue
            _move_tile(
                moves, terms, scales, decays, first, last, target, acc, pitch, row, rows, column, offset, count, scratch
            )
            if kind != F32:
                for r in range(rows):
                    store_row(kind, rounding, acc + r * pitch, sink, low_sink, start + r * columns, count)
        row += rows


@njit
def _wide(moves, terms, scales, decays, target, item, scratch):  # type: ignore[no-untyped-def]
    """All moves on one slab, in batches whose words fit the scratch."""
    first = 0
    while first < len(moves):
        last = first
        while last < len(moves) and moves[last, MOVE.batch] == moves[first, MOVE.batch]:
            last += 1
        _wide_batch(moves, terms, scales, decays, target, item, first, last, first > 0, scratch)
        first = last


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
