"""Rademacher terms on wide bfloat16 parameters, the most frequent write of all: whole rows, one loop from load to store.

Two neighbours are one 32-bit word of memory, taken apart and put together by a shift and a mask: half of the instructions that
widening and narrowing each element costs. The random words are drawn in that order, those of even columns first.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from zoft.backends.cpu.memory import (
    bits_of,
    float_of,
    load_i16,
    load_pair,
    load_u16,
    load_u32,
    rotate_right,
    shift_left,
    store_pair,
    store_u16,
)
from zoft.backends.cpu.plan import ITEM, MOVE, ROUNDING_TAG, SCRATCH, TARGET, TERM
from zoft.backends.cpu.random import philox_row
from zoft.backends.cpu.storage import RESIDUAL16, STOCHASTIC

_U16, _SIGN, _HIGH, _LOW = (np.uint32(n) for n in (16, 0x80000000, 0xFFFF0000, 0xFFFF))
_ONE, _HALF = np.uint32(1), np.uint32(0x7FFF)
_TAG, _ZERO, _SKIP = np.int64(ROUNDING_TAG), np.int64(0), np.int64(1)


@njit
def low_value(pair):  # type: ignore[no-untyped-def]
    """The float32 of the first of two neighbours."""
    return float_of(np.uint32(pair << _U16))


@njit
def high_value(pair):  # type: ignore[no-untyped-def]
    """The float32 of the second."""
    return float_of(np.uint32(pair & _HIGH))


@njit
def join(low, high):  # type: ignore[no-untyped-def]
    """Two neighbours from float32 bits, already rounded."""
    return np.uint32(np.uint32(high & _HIGH) | np.uint32(low >> _U16))


@njit
def nearest(value):  # type: ignore[no-untyped-def]
    """The float32 bits of the bfloat16 nearest to a float32, its lower half still to be dropped.

    A sum with a stored bfloat16 that is NaN has its bits, or those of the processor's own NaN: the lower half is empty, so it
    stays NaN without a test.
    """
    bits = bits_of(value)
    odd = np.uint32(np.uint32(bits >> _U16) & _ONE)
    return np.uint32(bits + np.uint32(_HALF + odd))


@njit
def _signed_bits(word, up, magnitude):  # type: ignore[no-untyped-def]
    """The bits of scale or -scale, by one bit of a word."""
    return np.uint32(np.uint32(shift_left(word, up) & _SIGN) ^ magnitude)


@njit
def _signed(words, i, up, magnitude):  # type: ignore[no-untyped-def]
    return float_of(_signed_bits(load_u32(words, i), up, magnitude))


@njit
def _add_signs(acc, even, odd, bit, scale, count):  # type: ignore[no-untyped-def]
    """One term, rounded to nearest, in place."""
    up, magnitude, half = np.uint32(31 - bit), bits_of(scale), count >> 1
    for i in range(half):
        pair = load_pair(acc, i)
        low = nearest(low_value(pair) + _signed(even, i, up, magnitude))
        store_pair(acc, i, join(low, nearest(high_value(pair) + _signed(odd, i, up, magnitude))))
    if count & 1 != 0:
        value = low_value(np.uint32(load_u16(acc, count - 1))) + _signed(even, half, up, magnitude)
        store_u16(acc, count - 1, np.uint16(nearest(value) >> _U16))


@njit
def _put_signs(sink, source, even, odd, bit, scale, count):  # type: ignore[no-untyped-def]
    """`_add_signs` from one place to another. A function of its own: with two pointers, in-place calls would not vectorise."""
    up, magnitude, half = np.uint32(31 - bit), bits_of(scale), count >> 1
    for i in range(half):
        pair = load_pair(source, i)
        low = nearest(low_value(pair) + _signed(even, i, up, magnitude))
        store_pair(sink, i, join(low, nearest(high_value(pair) + _signed(odd, i, up, magnitude))))
    if count & 1 != 0:
        value = low_value(np.uint32(load_u16(source, count - 1))) + _signed(even, half, up, magnitude)
        store_u16(sink, count - 1, np.uint16(nearest(value) >> _U16))


@njit
def dithered(value, bits, i, down):  # type: ignore[no-untyped-def]
    """The float32 bits of a bfloat16 next to a float32, by 16 bits of a word, its lower half still to be dropped.

    Infinities and NaN have an empty lower half and stay what they are.
    """
    return np.uint32(bits_of(value) + np.uint32(rotate_right(load_u32(bits, i), down) & _LOW))


@njit
def _stepped(value, word, up, back, change, bits, down, next_word, ahead):  # type: ignore[no-untyped-def]
    """One element between two steps: back along z, the update along z, on along the next z; its lower half is still there."""
    term = _signed_bits(word, up, back)
    value = float_of(np.uint32(nearest(value + float_of(term)) & _HIGH))
    dither = np.uint32(rotate_right(bits, down) & _LOW)
    value = float_of(np.uint32(np.uint32(bits_of(value + float_of(np.uint32(term ^ change))) + dither) & _HIGH))
    return nearest(value + float_of(_signed_bits(next_word, up, ahead)))


@njit
def _step_signs(acc, even, odd, bit, back, update, even_bits, odd_bits, shift, next_even, next_odd, ahead, count):  # type: ignore[no-untyped-def]
    """The moves between two steps in place: back along z to nearest, the update along z stochastically, and along the next z to
    nearest; each rounded by itself, as three passes would.
    """
    up, down, half = np.uint32(31 - bit), np.uint32(shift), count >> 1
    back, ahead = bits_of(back), bits_of(ahead)
    change = np.uint32(back ^ bits_of(update))  # from the one term to the other, whatever z's sign
    for i in range(half):
        pair = load_pair(acc, i)
        low = _stepped(
            low_value(pair),
            load_u32(even, i),
            up,
            back,
            change,
            load_u32(even_bits, i),
            down,
            load_u32(next_even, i),
            ahead,
        )
        other = _stepped(
            high_value(pair),
            load_u32(odd, i),
            up,
            back,
            change,
            load_u32(odd_bits, i),
            down,
            load_u32(next_odd, i),
            ahead,
        )
        store_pair(acc, i, join(low, other))
    if count & 1 != 0:
        last = low_value(np.uint32(load_u16(acc, count - 1)))
        words = load_u32(even, half), load_u32(even_bits, half), load_u32(next_even, half)
        last = _stepped(last, words[0], up, back, change, words[1], down, words[2], ahead)
        store_u16(acc, count - 1, np.uint16(last >> _U16))


@njit
def _dither_signs(acc, even, odd, bit, scale, even_bits, odd_bits, shift, count):  # type: ignore[no-untyped-def]
    """One term, rounded stochastically, in place."""
    up, magnitude, down, half = np.uint32(31 - bit), bits_of(scale), np.uint32(shift), count >> 1
    for i in range(half):
        pair = load_pair(acc, i)
        low = dithered(low_value(pair) + _signed(even, i, up, magnitude), even_bits, i, down)
        high = dithered(high_value(pair) + _signed(odd, i, up, magnitude), odd_bits, i, down)
        store_pair(acc, i, join(low, high))
    if count & 1 != 0:
        value = low_value(np.uint32(load_u16(acc, count - 1))) + _signed(even, half, up, magnitude)
        store_u16(acc, count - 1, np.uint16(dithered(value, even_bits, half, down) >> _U16))


@njit
def _add_residual_signs(acc, low, even, odd, bit, scale, count):  # type: ignore[no-untyped-def]
    """One term on weights that carry 16 residual bits: float32 arithmetic on two halves, in place.

    Modulo 2^16 the remainder is the low half of the float32 itself.
    """
    up, magnitude, half = np.uint32(31 - bit), bits_of(scale), count >> 1
    for i in range(half):
        pair, rest = load_pair(acc, i), load_pair(low, i)
        first = np.uint32(np.uint32(pair << _U16) + np.uint32(np.int32(np.int32(rest << _U16) >> np.int32(16))))
        second = np.uint32(np.uint32(pair & _HIGH) + np.uint32(np.int32(np.int32(rest) >> np.int32(16))))
        first = bits_of(float_of(first) + _signed(even, i, up, magnitude))
        second = bits_of(float_of(second) + _signed(odd, i, up, magnitude))
        store_pair(low, i, np.uint32(np.uint32(first & _LOW) | np.uint32(second << _U16)))
        store_pair(acc, i, join(np.uint32(first + np.uint32(0x8000)), np.uint32(second + np.uint32(0x8000))))
    if count & 1 != 0:
        bits = np.uint32(np.uint32(load_u16(acc, count - 1)) << _U16)
        bits = np.uint32(bits + np.uint32(np.int32(load_i16(low, count - 1))))
        bits = bits_of(float_of(bits) + _signed(even, half, up, magnitude))
        store_u16(acc, count - 1, np.uint16(np.uint32(bits + np.uint32(0x8000)) >> _U16))
        store_u16(low, count - 1, np.uint16(bits))


@njit
def _copy(sink, source, count):  # type: ignore[no-untyped-def]
    for i in range(count):
        store_u16(sink, i, load_u16(source, i))


@njit
def draw_halves(words, stride, block, count, target, tag, seed, step):  # type: ignore[no-untyped-def]
    """Words of `count` blocks: those of even lanes from lane 0 of each row of `words` on, then those of odd ones."""
    even, low, high = (count + 1) >> 1, target[TARGET.stream_low], target[TARGET.stream_high]
    philox_row(words, stride, block, _SKIP, even, tag, low, high, seed, step)
    philox_row(words + 4 * even, stride, block + 1, _SKIP, count >> 1, tag, low, high, seed, step)


@njit
def _dithered_move(moves, target):  # type: ignore[no-untyped-def]
    """The one that is rounded stochastically; -1: none is."""
    if target[TARGET.rounding] == STOCHASTIC:
        for move in range(len(moves)):
            if moves[move, MOVE.nearest] == 0:
                return move
    return -1


@njit
def _is_step(moves, terms, target, dithered):  # type: ignore[no-untyped-def]
    """Are these the moves of `_step_signs`?"""
    in_place = target[TARGET.sink] == target[TARGET.source]
    return (
        in_place
        and len(moves) == 3
        and dithered == 1
        and same_direction(terms, moves[0, MOVE.first], moves[1, MOVE.first])
    )


@njit
def same_direction(terms, term, other):  # type: ignore[no-untyped-def]
    """Do two terms have one direction?"""
    return (
        terms[term, TERM.seed] == terms[other, TERM.seed]
        and terms[term, TERM.step] == terms[other, TERM.step]
        and terms[term, TERM.tag] == terms[other, TERM.tag]
    )


@njit
def bfloat_signs(moves, terms, scales, decays, target, item, scratch):  # type: ignore[no-untyped-def]
    """All moves on one slab of bfloat16, one term each and at most one of them rounded stochastically, or, with 16 residual
    bits, in place (the plan sees to it).

    A row stays in the first-level cache from its first move to its last.
    """
    columns, total, sink, source = (
        target[TARGET.columns],
        target[TARGET.total_columns],
        target[TARGET.sink],
        target[TARGET.source],
    )
    left, width, stop = item[ITEM.column], item[ITEM.columns], item[ITEM.row] + item[ITEM.rows]
    stride, odd, fan = scratch[SCRATCH.stride], 4 * ((width + 1) >> 1), target[TARGET.fan]
    drawn, drawn_bits = np.int64(-1), np.int64(-1)
    dithered = _dithered_move(moves, target)
    whole_step = _is_step(moves, terms, target, dithered)
    for row in range(item[ITEM.row], stop):
        if row >> 7 != drawn:
            drawn = row >> 7
            block = drawn * total + target[TARGET.column] + left
            for move in range(len(moves)):
                term, at = moves[move, MOVE.first], scratch[SCRATCH.words] + 16 * stride * move
                seed, step = terms[term, TERM.seed], terms[term, TERM.step]
                if not (whole_step and move == 1):  # which is along the same z as the first
                    draw_halves(at, stride, block, width, target, terms[term, TERM.tag], seed, step)
        lane, start = row & 127, 2 * ((row - target[TARGET.row]) * columns + left)
        words = scratch[SCRATCH.words] + 4 * stride * (lane >> 5)
        bits = scratch[SCRATCH.bits] + 4 * stride * ((lane & 15) >> 2)
        if dithered >= 0 and row >> 4 != drawn_bits:
            drawn_bits = row >> 4
            block = drawn_bits * total + target[TARGET.column] + left
            seed, step = moves[dithered, MOVE.seed], moves[dithered, MOVE.step]
            draw_halves(scratch[SCRATCH.bits], stride, block, width, target, _TAG, seed, step)
        if whole_step:
            following = words + 32 * stride
            _step_signs(
                sink + start, words, words + odd, lane & 31, np.float32(scales[moves[0, MOVE.first]]),
                np.float32(scales[moves[1, MOVE.first]]), bits, bits + odd, (lane & 3) * 8, following, following + odd,
                np.float32(scales[moves[2, MOVE.first]]), width,
            )  # fmt: skip
            continue
        for move in range(len(moves)):
            scale, at = np.float32(scales[moves[move, MOVE.first]]), sink + start + fan * move
            first = source != sink and (move == 0 or fan != 0)
            if target[TARGET.rounding] == RESIDUAL16:
                low = target[TARGET.low_sink] + start
                _add_residual_signs(at, low, words, words + odd, lane & 31, scale, width)
            elif moves[move, MOVE.nearest] != 0:
                if first:
                    _put_signs(at, source + start, words, words + odd, lane & 31, scale, width)
                else:
                    _add_signs(at, words, words + odd, lane & 31, scale, width)
            else:
                if first:
                    _copy(at, source + start, width)
                _dither_signs(at, words, words + odd, lane & 31, scale, bits, bits + odd, (lane & 3) * 8, width)
            words += 16 * stride
