"""Every kind of move on wide parameters: tiles of 8 rows by 512 columns that stay in the first-level cache for all moves.

16-bit weights are float32 in a buffer meanwhile, so many moves cost one pass over memory. Words of Rademacher terms are drawn
once a slab (one Philox call per 128 elements); normals and rounding bits where they are used.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from zoft.backends.cpu.memory import load_f32, store_f32
from zoft.backends.cpu.plan import (
    ITEM,
    MOVE,
    NARROW_LANES,
    RADEMACHER,
    ROUNDING_TAG,
    SCRATCH,
    TARGET,
    TERM,
    THIN,
    TILE_COLUMNS,
)
from zoft.backends.cpu.random import normal_rows, philox_row
from zoft.backends.cpu.signs import add_signs, draw_words
from zoft.backends.cpu.storage import F32, NEAREST, RESIDUAL16, load_row, round_row, store_row

# Typed, because a plain integer argument would have every callee compiled once more for its literal value.
_TILE, _ROW_BYTES, _TAG = np.int64(TILE_COLUMNS), np.int64(4 * TILE_COLUMNS), np.int64(ROUNDING_TAG)
_NEAREST, _ZERO, _PITCH = np.int64(NEAREST), np.int64(0), np.int64(NARROW_LANES)


@njit
def add_scaled(acc, z, scale, count):  # type: ignore[no-untyped-def]
    for i in range(count):
        store_f32(acc, i, load_f32(acc, i) + load_f32(z, i) * scale)


@njit
def add_product(acc, right, a, scale, count):  # type: ignore[no-untyped-def]
    """A term whose factors are a number and a row."""
    for i in range(count):
        store_f32(acc, i, load_f32(acc, i) + (load_f32(right, i) * a) * scale)


@njit
def _put_product(z, right, a, count):  # type: ignore[no-untyped-def]
    for i in range(count):
        store_f32(z, i, load_f32(right, i) * a)


@njit
def _add_thin(acc, z, left, right, pitch, rank, scale, count):  # type: ignore[no-untyped-def]
    """acc += scale times the sum over `rank` of left's numbers and right's rows, in order; `pitch` bytes from row to row."""
    if rank == 1:
        add_product(acc, right, load_f32(left, 0), scale, count)
        return
    _put_product(z, right, load_f32(left, 0), count)
    for k in range(1, rank):
        add_scaled(z, right + k * pitch, load_f32(left, k), count)
    add_scaled(acc, z, scale, count)


@njit
def _add_four(terms, scales, term, offset, row, acc, count):  # type: ignore[no-untyped-def]
    """Four terms of rank 1, one after the other in registers: what several steps left to be merged (docs/performance.md).

    `offset` and `row` are those of the tile and the row in the target.
    """
    b0, b1 = terms[term, TERM.right] + offset, terms[term + 1, TERM.right] + offset
    b2, b3 = terms[term + 2, TERM.right] + offset, terms[term + 3, TERM.right] + offset
    a0, a1 = load_f32(terms[term, TERM.left], row), load_f32(terms[term + 1, TERM.left], row)
    a2, a3 = load_f32(terms[term + 2, TERM.left], row), load_f32(terms[term + 3, TERM.left], row)
    s0, s1 = np.float32(scales[term]), np.float32(scales[term + 1])
    s2, s3 = np.float32(scales[term + 2]), np.float32(scales[term + 3])
    for i in range(count):
        value = load_f32(acc, i) + (load_f32(b0, i) * a0) * s0
        value = value + (load_f32(b1, i) * a1) * s1
        value = value + (load_f32(b2, i) * a2) * s2
        store_f32(acc, i, value + (load_f32(b3, i) * a3) * s3)


@njit
def _four_products(terms, term, last):  # type: ignore[no-untyped-def]
    """Are this term and the three behind it thin ones of rank 1?"""
    if term + 4 > last:
        return False
    for other in range(term, term + 4):
        if terms[other, TERM.kind] != THIN or terms[other, TERM.rank] != 1:
            return False
    return True


@njit
def multiply(acc, factor, count):  # type: ignore[no-untyped-def]
    for i in range(count):
        store_f32(acc, i, load_f32(acc, i) * factor)


@njit
def uses_bits(kind, rounding):  # type: ignore[no-untyped-def]
    return kind != F32 and rounding != NEAREST and rounding != RESIDUAL16


@njit
def rounding_of(moves, move, rounding):  # type: ignore[no-untyped-def]
    """The rounding of one move of a target."""
    return _NEAREST if moves[move, MOVE.nearest] != 0 else rounding


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
                multiply(acc + r * pitch, np.float32(decays[move]), count)
        term, shift = moves[move, MOVE.first] - 1, target[TARGET.first_term]
        while term + 1 < moves[move, MOVE.last]:
            term += 1
            if _four_products(terms, term, moves[move, MOVE.last]):
                for r in range(rows):
                    at = row + r - target[TARGET.row]
                    _add_four(
                        terms, scales, term + shift, 4 * (column - target[TARGET.column]), at, acc + r * pitch, count
                    )
                term += 3
                continue
            scale = np.float32(scales[term])
            if terms[term, TERM.kind] == RADEMACHER:
                for r in range(rows):
                    lane = (row + r) & 127
                    words = scratch[SCRATCH.words] + 4 * (stride * (4 * slot + (lane >> 5)) + offset)
                    add_signs(acc + r * pitch, words, lane & 31, scale, count)
                slot += 1
                continue
            if terms[term, TERM.kind] == THIN:
                own = term + shift
                rank, pitch_right = terms[own, TERM.rank], 4 * target[TARGET.columns]
                right = terms[own, TERM.right] + 4 * (column - target[TARGET.column])
                for r in range(rows):
                    left = terms[own, TERM.left] + 4 * rank * (row + r - target[TARGET.row])
                    _add_thin(acc + r * pitch, scratch[SCRATCH.z], left, right, pitch_right, rank, scale, count)
                continue
            philox_row(
                scratch[SCRATCH.bits], _PITCH, (row >> 3) * total + column, _ZERO, count, terms[term, TERM.tag],
                target[TARGET.stream_low], target[TARGET.stream_high], terms[term, TERM.seed], terms[term, TERM.step],
            )  # fmt: skip
            normal_rows(scratch[SCRATCH.z], scratch[SCRATCH.bits], count)
            for r in range(rows):
                z = scratch[SCRATCH.z] + ((row + r) & 7) * 4 * _PITCH
                add_scaled(acc + r * pitch, z, scale, count)
        wanted = rounding_of(moves, move, rounding)
        if uses_bits(kind, wanted):
            philox_row(
                scratch[SCRATCH.bits], _TILE, (row >> 4) * total + column, _ZERO, count, _TAG,
                target[TARGET.stream_low], target[TARGET.stream_high], moves[move, MOVE.seed], moves[move, MOVE.step],
            )  # fmt: skip
        for r in range(rows):
            lane = (row + r) & 15
            bits = scratch[SCRATCH.bits] + (lane >> 2) * _ROW_BYTES
            round_row(kind, wanted, acc + r * pitch, bits, (lane & 3) * 8, count)


@njit
def _wide_batch(moves, terms, scales, decays, target, item, first, last, again, scratch):  # type: ignore[no-untyped-def]
    """Moves [first, last) on one slab; `again` where earlier moves were stored in the sink already."""
    columns, total = target[TARGET.columns], target[TARGET.total_columns]
    kind, rounding, sink = target[TARGET.kind], target[TARGET.rounding], target[TARGET.sink]
    left, width, stop = item[ITEM.column], item[ITEM.columns], item[ITEM.row] + item[ITEM.rows]
    source = sink if again else target[TARGET.source]
    low = target[TARGET.low_sink] if again else target[TARGET.low_source]
    low_sink = target[TARGET.low_sink]
    drawn = np.int64(-1)
    row = item[ITEM.row]
    while row < stop:  # groups of 8 rows, which share normals and half of a block of rounding bits
        rows = min(stop, ((row >> 3) + 1) << 3) - row
        if row >> 7 != drawn:
            drawn = row >> 7
            block = drawn * total + target[TARGET.column] + left
            draw_words(moves, terms, first, last, target, block, width, scratch)
        for offset in range(0, width, TILE_COLUMNS):
            count = min(_TILE, width - offset)
            start = (row - target[TARGET.row]) * columns + left + offset
            column = target[TARGET.column] + left + offset
            acc, pitch = scratch[SCRATCH.acc], _ROW_BYTES
            if kind == F32:  # the weights themselves are the accumulator
                acc, pitch = sink + 4 * start, 4 * columns
            if kind != F32 or source != sink:
                for r in range(rows):
                    load_row(kind, rounding, source, low, start + r * columns, acc + r * pitch, count)
            _move_tile(
                moves, terms, scales, decays, first, last, target, acc, pitch, row, rows, column, offset, count, scratch
            )
            if kind != F32:
                for r in range(rows):
                    store_row(kind, rounding, acc + r * pitch, sink, low_sink, start + r * columns, count)
        row += rows


@njit
def wide(moves, terms, scales, decays, target, item, scratch):  # type: ignore[no-untyped-def]
    """All moves on one slab, in batches whose words fit the scratch."""
    first = _ZERO
    while first < len(moves):
        last = first
        while last < len(moves) and moves[last, MOVE.batch] == moves[first, MOVE.batch]:
            last += 1
        _wide_batch(moves, terms, scales, decays, target, item, first, last, first > 0, scratch)
        first = last
