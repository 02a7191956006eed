"""Parameters with few columns (biases, norms, low-rank factors), and float64 ones.

A tile of a narrow parameter is a run of consecutive elements; random numbers are spread into the order of the elements first.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from zoft.backends.cpu.memory import load_f32, load_f64, store_f64
from zoft.backends.cpu.plan import (
    ITEM,
    MOVE,
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
from zoft.backends.cpu.storage import load_row, round_row, store_row
from zoft.backends.cpu.tiles import add_scaled, multiply, rounding_of, uses_bits

# Typed, because a plain integer argument would have every callee compiled once more for its literal value.
_STRIDE, _TILE, _TAG = np.int64(NARROW_LANES), np.int64(TILE_COLUMNS), np.int64(ROUNDING_TAG)
_ZERO, _ONE, _SIXTEEN = np.int64(0), np.int64(1), np.int64(16)


@njit
def _draw_blocks(target, lanes, row, rows, tag, seed, step, scratch):  # type: ignore[no-untyped-def]
    """Words of all blocks (`lanes` rows each) that rows [row, row + rows) of a narrow target touch.

    Returns:
        The number of Philox lanes drawn, block row by block row.
    """
    columns, total = target[TARGET.columns], target[TARGET.total_columns]
    first, last = row // lanes, (row + rows - 1) // lanes + 1
    low, high = target[TARGET.stream_low], target[TARGET.stream_high]
    words, stride = scratch[SCRATCH.bits], _STRIDE
    if columns == total:
        philox_row(words, stride, first * total, _ZERO, (last - first) * columns, tag, low, high, seed, step)
    else:
        for group in range(first, last):
            at = words + 4 * (group - first) * columns
            philox_row(at, stride, group * total + target[TARGET.column], _ZERO, columns, tag, low, high, seed, step)
    return (last - first) * columns


@njit
def _narrow_z(target, terms, term, row, rows, scratch):  # type: ignore[no-untyped-def]
    """z of one term over rows [row, row + rows) of a narrow target, in the order of its elements."""
    columns, z, bits = target[TARGET.columns], scratch[SCRATCH.z], scratch[SCRATCH.bits]
    lanes = np.int64(128 if terms[term, TERM.kind] == RADEMACHER else 8)
    drawn = _draw_blocks(
        target, lanes, row, rows, terms[term, TERM.tag], terms[term, TERM.seed], terms[term, TERM.step], scratch
    )
    if lanes == 128:
        spread_signs(z, bits, _STRIDE, drawn, columns, row & 127, rows)
        return
    normal_rows(scratch[SCRATCH.normals], bits, drawn)
    spread_normals(z, scratch[SCRATCH.normals], _STRIDE, drawn, columns, row & 7, rows)


@njit
def narrow(moves, terms, scales, decays, target, item, scratch):  # type: ignore[no-untyped-def]
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
                multiply(acc, np.float32(decays[move]), count)
            for term in range(moves[move, MOVE.first], moves[move, MOVE.last]):
                _narrow_z(target, terms, term, row, rows, scratch)
                add_scaled(acc, scratch[SCRATCH.z], np.float32(scales[term]), count)
            wanted = rounding_of(moves, move, rounding)
            if uses_bits(kind, wanted):
                drawn = _draw_blocks(
                    target, _SIXTEEN, row, rows, _TAG, moves[move, MOVE.seed], moves[move, MOVE.step], scratch
                )
                spread_bits(scratch[SCRATCH.z], scratch[SCRATCH.bits], _STRIDE, drawn, columns, row & 15, rows)
            round_row(kind, wanted, acc, scratch[SCRATCH.z], _ZERO, count)
        store_row(kind, rounding, acc, target[TARGET.sink], target[TARGET.low_sink], start, count)
        row += rows


@njit
def double(moves, terms, scales, decays, target, item, scratch):  # type: ignore[no-untyped-def]
    """A float64 target, one row segment at a time: z is float32, the accumulator float64. Correct rather than fast."""
    columns, z = target[TARGET.columns], scratch[SCRATCH.z]
    left, width = item[ITEM.column], item[ITEM.columns]
    for row in range(item[ITEM.row], item[ITEM.row] + item[ITEM.rows]):
        for offset in range(0, width, TILE_COLUMNS):
            count = min(_TILE, width - offset)
            start = (row - target[TARGET.row]) * columns + left + offset
            at = target[TARGET.sink] + 8 * start
            for i in range(count):
                store_f64(at, i, load_f64(target[TARGET.source] + 8 * start, i))
            for move in range(len(moves)):
                if target[TARGET.decays] != 0:
                    for i in range(count):
                        store_f64(at, i, load_f64(at, i) * decays[move])
                for term in range(moves[move, MOVE.first], moves[move, MOVE.last]):
                    lanes = np.int64(128 if terms[term, TERM.kind] == RADEMACHER else 8)
                    block = (row // lanes) * target[TARGET.total_columns] + target[TARGET.column] + left + offset
                    philox_row(
                        scratch[SCRATCH.bits], _STRIDE, block, _ZERO, count, terms[term, TERM.tag],
                        target[TARGET.stream_low], target[TARGET.stream_high], terms[term, TERM.seed], terms[term, TERM.step],
                    )  # fmt: skip
                    if lanes == 128:
                        spread_signs(z, scratch[SCRATCH.bits], _STRIDE, count, count, row & 127, _ONE)
                    else:
                        normal_rows(scratch[SCRATCH.normals], scratch[SCRATCH.bits], count)
                        spread_normals(z, scratch[SCRATCH.normals], _STRIDE, count, count, row & 7, _ONE)
                    for i in range(count):
                        store_f64(at, i, load_f64(at, i) + np.float64(load_f32(z, i)) * scales[term])
