"""Rademacher terms on wide float32 parameters: whole rows, load to store in as few loops as possible.

Words are drawn once a slab (one Philox call per 128 elements). A row is as long as the slab is wide, because short strided
pieces starve the prefetcher: 512 columns at a time cost 2.5 times as much in bfloat16 (docs/performance.md).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from zoft.backends.cpu.memory import (
    bits_of,
    float_of,
    load_f32,
    load_u32,
    shift_left,
    store_f32,
)
from zoft.backends.cpu.plan import ITEM, MOVE, RADEMACHER, SCRATCH, TARGET, TERM
from zoft.backends.cpu.random import philox_row

_SIGN = np.uint32(0x80000000)
_ZERO = np.int64(0)


@njit
def add_signs(acc, words, bit, scale, count):  # type: ignore[no-untyped-def]
    """acc += scale or -scale, by one bit of each word."""
    up, magnitude = np.uint32(31 - bit), bits_of(scale)
    for i in range(count):
        sign = np.uint32(shift_left(load_u32(words, i), up) & _SIGN)
        store_f32(acc, i, load_f32(acc, i) + float_of(np.uint32(sign ^ magnitude)))


@njit
def _put_signs(sink, source, words, bit, scale, count):  # type: ignore[no-untyped-def]
    """`add_signs` from one place to another. A function of its own: with two pointers, in-place calls would not vectorise."""
    up, magnitude = np.uint32(31 - bit), bits_of(scale)
    for i in range(count):
        sign = np.uint32(shift_left(load_u32(words, i), up) & _SIGN)
        store_f32(sink, i, load_f32(source, i) + float_of(np.uint32(sign ^ magnitude)))


@njit
def _add_two_signs(acc, words, slot_bytes, bit, a, b, count):  # type: ignore[no-untyped-def]
    """The next two terms in one pass over `acc`, added one at a time in their order."""
    up, a, b, words_b = np.uint32(31 - bit), bits_of(a), bits_of(b), words + slot_bytes
    for i in range(count):
        value = load_f32(acc, i) + float_of(np.uint32(np.uint32(shift_left(load_u32(words, i), up) & _SIGN) ^ a))
        value = value + float_of(np.uint32(np.uint32(shift_left(load_u32(words_b, i), up) & _SIGN) ^ b))
        store_f32(acc, i, value)


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
def draw_words(moves, terms, first, last, target, block, count, scratch):  # type: ignore[no-untyped-def]
    """Words of every Rademacher term of moves [first, last), one slot a term."""
    slot = 0
    for move in range(first, last):
        for term in range(moves[move, MOVE.first], moves[move, MOVE.last]):
            if terms[term, TERM.kind] == RADEMACHER:
                philox_row(
                    scratch[SCRATCH.words] + 16 * scratch[SCRATCH.stride] * slot, scratch[SCRATCH.stride], block, _ZERO, count,
                    terms[term, TERM.tag], target[TARGET.stream_low], target[TARGET.stream_high],
                    terms[term, TERM.seed], terms[term, TERM.step],
                )  # fmt: skip
                slot += 1


@njit
def _single_batch(moves, terms, scales, target, item, first, last, again, scratch):  # type: ignore[no-untyped-def]
    """Moves [first, last) on one slab of float32, where nothing is rounded between them."""
    columns, total, sink = target[TARGET.columns], target[TARGET.total_columns], target[TARGET.sink]
    left, width, stop = item[ITEM.column], item[ITEM.columns], item[ITEM.row] + item[ITEM.rows]
    source = sink if again else target[TARGET.source]
    stride, slot_bytes = scratch[SCRATCH.stride], 16 * scratch[SCRATCH.stride]
    begin, end = moves[first, MOVE.first], moves[last - 1, MOVE.last]
    row = item[ITEM.row]
    while row < stop:  # block rows
        block_end = min(stop, ((row >> 7) + 1) << 7)
        block = (row >> 7) * total + target[TARGET.column] + left
        draw_words(moves, terms, first, last, target, block, width, scratch)
        for r in range(row, block_end):
            lane = r & 127
            words = scratch[SCRATCH.words] + 4 * stride * (lane >> 5)
            start = (r - target[TARGET.row]) * columns + left
            at, term = sink + 4 * start, begin
            if source != sink:
                _put_signs(at, source + 4 * start, words, lane & 31, np.float32(scales[term]), width)
                term, words = term + 1, words + slot_bytes
            while term + 4 <= end:
                a, b = np.float32(scales[term]), np.float32(scales[term + 1])
                c, d = np.float32(scales[term + 2]), np.float32(scales[term + 3])
                _add_four_signs(at, words, slot_bytes, lane & 31, a, b, c, d, width)
                term, words = term + 4, words + 4 * slot_bytes
            if term + 2 <= end:
                a, b = np.float32(scales[term]), np.float32(scales[term + 1])
                _add_two_signs(at, words, slot_bytes, lane & 31, a, b, width)
                term, words = term + 2, words + 2 * slot_bytes
            if term < end:
                add_signs(at, words, lane & 31, np.float32(scales[term]), width)
        row = block_end


@njit
def _fanned_signs(moves, terms, scales, target, item, scratch):  # type: ignore[no-untyped-def]
    """Every move, one term each, from the source to a place of its own: a row is read from memory once for all of them."""
    columns, total, width = target[TARGET.columns], target[TARGET.total_columns], item[ITEM.columns]
    stride, drawn = scratch[SCRATCH.stride], np.int64(-1)
    for row in range(item[ITEM.row], item[ITEM.row] + item[ITEM.rows]):
        if row >> 7 != drawn:
            drawn = row >> 7
            block = drawn * total + target[TARGET.column] + item[ITEM.column]
            draw_words(moves, terms, _ZERO, np.int64(len(moves)), target, block, width, scratch)
        start = 4 * ((row - target[TARGET.row]) * columns + item[ITEM.column])
        words = scratch[SCRATCH.words] + 4 * stride * ((row & 127) >> 5)
        for move in range(len(moves)):
            at = target[TARGET.sink] + target[TARGET.fan] * move + start
            scale = np.float32(scales[moves[move, MOVE.first]])
            _put_signs(at, target[TARGET.source] + start, words + 16 * stride * move, row & 31, scale, width)


@njit
def single_signs(moves, terms, scales, decays, target, item, scratch):  # type: ignore[no-untyped-def]
    """All moves on one slab of float32, in batches whose words fit the scratch."""
    if target[TARGET.fan] != 0:
        _fanned_signs(moves, terms, scales, target, item, scratch)
        return
    first = _ZERO
    while first < len(moves):
        last = first
        while last < len(moves) and moves[last, MOVE.batch] == moves[first, MOVE.batch]:
            last += 1
        _single_batch(moves, terms, scales, target, item, first, last, first > 0, scratch)
        first = last
