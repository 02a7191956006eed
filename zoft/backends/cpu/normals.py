"""Normal terms on wide float32 parameters, and on bfloat16 ones that round to nearest: one term a move.

A tile is the eight rows of a block by 384 bytes, so that words and normals stay in the first-level cache. The arithmetic of a
tile takes longer than memory, but its rows are pieces too short for a processor to see that more will follow: they are asked
for one tile ahead.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from zoft.backends.cpu.bfloat import draw_halves, high_value, join, low_value, nearest, same_direction
from zoft.backends.cpu.memory import load_f32, load_pair, load_u16, prefetch, store_f32, store_pair, store_u16
from zoft.backends.cpu.plan import ITEM, MOVE, NARROW_LANES, SCRATCH, TARGET, TERM
from zoft.backends.cpu.random import normal_rows, philox_row
from zoft.backends.cpu.storage import F32
from zoft.backends.cpu.tiles import add_scaled

_TILE_BYTES, _PITCH, _ROW_BYTES = np.int64(384), np.int64(NARROW_LANES), np.int64(4 * NARROW_LANES)
_ZERO, _LINE, _U16 = np.int64(0), np.int64(64), np.uint32(16)


@njit
def _put_scaled(sink, source, z, scale, count):  # type: ignore[no-untyped-def]
    for i in range(count):
        store_f32(sink, i, load_f32(source, i) + load_f32(z, i) * scale)


@njit
def _add_bfloat(acc, even, odd, scale, count):  # type: ignore[no-untyped-def]
    for i in range(count >> 1):
        pair = load_pair(acc, i)
        low = nearest(low_value(pair) + load_f32(even, i) * scale)
        store_pair(acc, i, join(low, nearest(high_value(pair) + load_f32(odd, i) * scale)))
    if count & 1 != 0:
        value = low_value(np.uint32(load_u16(acc, count - 1))) + load_f32(even, count >> 1) * scale
        store_u16(acc, count - 1, np.uint16(nearest(value) >> _U16))


@njit
def _put_bfloat(sink, source, even, odd, scale, count):  # type: ignore[no-untyped-def]
    for i in range(count >> 1):
        pair = load_pair(source, i)
        low = nearest(low_value(pair) + load_f32(even, i) * scale)
        store_pair(sink, i, join(low, nearest(high_value(pair) + load_f32(odd, i) * scale)))
    if count & 1 != 0:
        value = low_value(np.uint32(load_u16(source, count - 1))) + load_f32(even, count >> 1) * scale
        store_u16(sink, count - 1, np.uint16(nearest(value) >> _U16))


@njit
def _ask(at, pitch, length):  # type: ignore[no-untyped-def]
    """For `length` bytes of four rows."""
    for byte in range(0, length, _LINE):
        for row in range(4):
            prefetch(at + row * pitch + byte)


@njit
def _normals_of(terms, term, target, block, count, ahead, pitch, length, scratch):  # type: ignore[no-untyped-def]
    """Eight rows of normals from block `block` on, into z; in bfloat16 those of even columns first.

    The requests for `length` bytes of eight rows at `ahead` are spread between the loops: a burst would fill the queues.
    """
    seed, step, tag = terms[term, TERM.seed], terms[term, TERM.step], terms[term, TERM.tag]
    words, low, high = scratch[SCRATCH.bits], target[TARGET.stream_low], target[TARGET.stream_high]
    _ask(ahead, pitch, length)
    if target[TARGET.kind] == F32:
        philox_row(words, _PITCH, block, _ZERO, count, tag, low, high, seed, step)
    else:
        draw_halves(words, _PITCH, block, count, target, tag, seed, step)
    _ask(ahead + 4 * pitch, pitch, length)
    normal_rows(scratch[SCRATCH.z], words, count)


@njit
def normals(moves, terms, scales, decays, target, item, scratch):  # type: ignore[no-untyped-def]
    """All moves on one slab, or each from the source to a place of its own; neighbours of one direction draw z once."""
    columns, source, sink, kind = (
        target[TARGET.columns],
        target[TARGET.source],
        target[TARGET.sink],
        target[TARGET.kind],
    )
    left, width, stop = item[ITEM.column], item[ITEM.columns], item[ITEM.row] + item[ITEM.rows]
    size, fan = np.int64(4 if kind == F32 else 2), target[TARGET.fan]
    pitch, row, most = size * columns, item[ITEM.row], _TILE_BYTES // size
    while row < stop:
        rows = min(stop, ((row >> 3) + 1) << 3) - row
        for offset in range(0, width, most):
            count = min(most, width - offset)
            start = size * ((row - target[TARGET.row]) * columns + left + offset)
            block = (row >> 3) * target[TARGET.total_columns] + target[TARGET.column] + left + offset
            ahead, length = start + size * most, size * min(most, width - offset - count)
            if length == 0:
                ahead, length = start - size * offset + rows * pitch, size * min(most, width)
            for move in range(len(moves)):
                term = moves[move, MOVE.first]
                if move == 0:
                    _normals_of(terms, term, target, block, count, source + ahead, pitch, length, scratch)
                elif not same_direction(terms, term, moves[move - 1, MOVE.first]):
                    _normals_of(terms, term, target, block, count, source, pitch, _ZERO, scratch)
                first, scale = source != sink and (move == 0 or fan != 0), np.float32(scales[term])
                for r in range(rows):
                    z, at = scratch[SCRATCH.z] + ((row + r) & 7) * _ROW_BYTES, start + r * pitch
                    to, odd = sink + fan * move + at, z + 4 * ((count + 1) >> 1)
                    if kind == F32:
                        if first:
                            _put_scaled(to, source + at, z, scale, count)
                        else:
                            add_scaled(to, z, scale, count)
                    elif first:
                        _put_bfloat(to, source + at, z, odd, scale, count)
                    else:
                        _add_bfloat(to, z, odd, scale, count)
        row += rows
