"""One term z = a b^T of two columns on wide float32 and bfloat16, in place: the update of a step along rank-one factors.

One loop from load to store, row after row; of bfloat16 two neighbours a word, as in `bfloat.py`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from zoft.backends.cpu.bfloat import dithered, draw_halves, high_value, join, low_value, nearest
from zoft.backends.cpu.memory import (
    bits_of,
    float_of,
    load_f32,
    load_i16,
    load_pair,
    load_u16,
    store_f32,
    store_pair,
    store_u16,
)
from zoft.backends.cpu.plan import ITEM, MOVE, ROUNDING_TAG, SCRATCH, TARGET, TERM
from zoft.backends.cpu.storage import F32, RESIDUAL16, STOCHASTIC
from zoft.backends.cpu.tiles import add_product

_TAG = np.int64(ROUNDING_TAG)
_U16, _HIGH, _LOW, _HALF = (np.uint32(n) for n in (16, 0xFFFF0000, 0xFFFF, 0x8000))


@njit
def _split(even, odd, row, count):  # type: ignore[no-untyped-def]
    """The float32 of even columns and those of odd ones."""
    for i in range(count >> 1):
        store_f32(even, i, load_f32(row, 2 * i))
        store_f32(odd, i, load_f32(row, 2 * i + 1))
    if count & 1 != 0:
        store_f32(even, count >> 1, load_f32(row, count - 1))


@njit
def _add_pairs(acc, even, odd, a, scale, count):  # type: ignore[no-untyped-def]
    """Rounded to nearest."""
    half = count >> 1
    for i in range(half):
        pair = load_pair(acc, i)
        low = nearest(low_value(pair) + (load_f32(even, i) * a) * scale)
        store_pair(acc, i, join(low, nearest(high_value(pair) + (load_f32(odd, i) * a) * scale)))
    if count & 1 != 0:
        value = low_value(np.uint32(load_u16(acc, count - 1))) + (load_f32(even, half) * a) * scale
        store_u16(acc, count - 1, np.uint16(nearest(value) >> _U16))


@njit
def _dither_pairs(acc, even, odd, a, scale, even_bits, odd_bits, shift, count):  # type: ignore[no-untyped-def]
    """Rounded stochastically."""
    down, half = np.uint32(shift), count >> 1
    for i in range(half):
        pair = load_pair(acc, i)
        low = dithered(low_value(pair) + (load_f32(even, i) * a) * scale, even_bits, i, down)
        high = dithered(high_value(pair) + (load_f32(odd, i) * a) * scale, odd_bits, i, down)
        store_pair(acc, i, join(low, high))
    if count & 1 != 0:
        value = low_value(np.uint32(load_u16(acc, count - 1))) + (load_f32(even, half) * a) * scale
        store_u16(acc, count - 1, np.uint16(dithered(value, even_bits, half, down) >> _U16))


@njit
def _add_residual_pairs(acc, low, even, odd, a, scale, count):  # type: ignore[no-untyped-def]
    """With 16 residual bits: float32 arithmetic on two halves, see `bfloat.py`."""
    half = count >> 1
    for i in range(half):
        pair, rest = load_pair(acc, i), load_pair(low, i)
        first = np.uint32(np.uint32(pair << _U16) + np.uint32(np.int32(np.int32(rest << _U16) >> np.int32(16))))
        second = np.uint32(np.uint32(pair & _HIGH) + np.uint32(np.int32(np.int32(rest) >> np.int32(16))))
        first = bits_of(float_of(first) + (load_f32(even, i) * a) * scale)
        second = bits_of(float_of(second) + (load_f32(odd, i) * a) * scale)
        store_pair(low, i, np.uint32(np.uint32(first & _LOW) | np.uint32(second << _U16)))
        store_pair(acc, i, join(np.uint32(first + _HALF), np.uint32(second + _HALF)))
    if count & 1 != 0:
        bits = np.uint32(np.uint32(load_u16(acc, count - 1)) << _U16)
        bits = np.uint32(bits + np.uint32(np.int32(load_i16(low, count - 1))))
        bits = bits_of(float_of(bits) + (load_f32(even, half) * a) * scale)
        store_u16(acc, count - 1, np.uint16(np.uint32(bits + _HALF) >> _U16))
        store_u16(low, count - 1, np.uint16(bits))


@njit
def single_product(moves, terms, scales, decays, target, item, scratch):  # type: ignore[no-untyped-def]
    """The one move on one slab."""
    columns, total, sink = target[TARGET.columns], target[TARGET.total_columns], target[TARGET.sink]
    left, width, stop = item[ITEM.column], item[ITEM.columns], item[ITEM.row] + item[ITEM.rows]
    term, scale = target[TARGET.first_term], np.float32(scales[0])
    a, b = terms[term, TERM.left], terms[term, TERM.right] + 4 * left
    stride, odd = scratch[SCRATCH.stride], 4 * ((width + 1) >> 1)
    even, bits = scratch[SCRATCH.words], scratch[SCRATCH.bits]
    single, drawn = target[TARGET.kind] == F32, np.int64(-1)
    at_random = target[TARGET.rounding] == STOCHASTIC and moves[0, MOVE.nearest] == 0
    if not single:
        _split(even, even + odd, b, width)
    for row in range(item[ITEM.row], stop):
        own = row - target[TARGET.row]
        factor, start = load_f32(a, own), own * columns + left
        if single:
            add_product(sink + 4 * start, b, factor, scale, width)
            continue
        if target[TARGET.rounding] == RESIDUAL16:
            low = target[TARGET.low_sink] + 2 * start
            _add_residual_pairs(sink + 2 * start, low, even, even + odd, factor, scale, width)
            continue
        if not at_random:
            _add_pairs(sink + 2 * start, even, even + odd, factor, scale, width)
            continue
        if row >> 4 != drawn:
            drawn = row >> 4
            block = drawn * total + target[TARGET.column] + left
            draw_halves(bits, stride, block, width, target, _TAG, moves[0, MOVE.seed], moves[0, MOVE.step])
        some = bits + 4 * stride * ((row & 15) >> 2)
        _dither_pairs(sink + 2 * start, even, even + odd, factor, scale, some, some + odd, (row & 3) * 8, width)
