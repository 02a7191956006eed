"""Random bits, signs and normals by the row, for compiled code: the arithmetic of `zoft.directions`, lane by lane.

Every loop runs over lanes with straight-line integer or float code inside, which LLVM turns into whatever
vectors the machine has.
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
    shift_right,
    store_f32,
    store_u32,
)
from zoft.directions import gaussian, philox

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_M0, _M1 = (np.uint64(m) for m in philox.MULTIPLIERS)
_W0, _W1 = (np.uint64(w) for w in philox.KEY_INCREMENTS)
_L0, _L1, _L2, _L3, _L4, _L5, _L6, _L7 = (np.float32(c) for c in gaussian.LOG)
_S0, _S1, _S2, _S3 = (np.float32(c) for c in gaussian.SINE)
_C0, _C1, _C2, _C3 = (np.float32(c) for c in gaussian.COSINE)
_LN2 = np.float32(gaussian.LN2)
_CUT = np.int32(gaussian.SQRT_HALF_BITS)
_TINY24, _TINY25 = np.float32(2.0**-24), np.float32(2.0**-25)
_ONE, _MINUS_TWO = np.float32(1.0), np.float32(-2.0)
_SIGN = np.uint32(0x80000000)


@njit
def _round(c0, c1, c2, c3, k0, k1):  # type: ignore[no-untyped-def]
    a, b = _M0 * c0, _M1 * c2
    return (b >> _HALF) ^ c1 ^ k0, b & _LOW, (a >> _HALF) ^ c3 ^ k1, a & _LOW


@njit
def philox_row(words, stride, block, lanes, tag, stream_low, stream_high, seed, step):  # type: ignore[no-untyped-def]
    """Philox4x32-10 of blocks [block, block + lanes): word w of lane i goes to uint32 `words[w * stride + i]`."""
    k0, k1 = np.uint64(seed), np.uint64(step)
    k01, k02, k03 = (k0 + _W0) & _LOW, (k0 + np.uint64(2) * _W0) & _LOW, (k0 + np.uint64(3) * _W0) & _LOW
    k04, k05, k06 = (k0 + np.uint64(4) * _W0) & _LOW, (k0 + np.uint64(5) * _W0) & _LOW, (k0 + np.uint64(6) * _W0) & _LOW
    k07, k08, k09 = (k0 + np.uint64(7) * _W0) & _LOW, (k0 + np.uint64(8) * _W0) & _LOW, (k0 + np.uint64(9) * _W0) & _LOW
    k11, k12, k13 = (k1 + _W1) & _LOW, (k1 + np.uint64(2) * _W1) & _LOW, (k1 + np.uint64(3) * _W1) & _LOW
    k14, k15, k16 = (k1 + np.uint64(4) * _W1) & _LOW, (k1 + np.uint64(5) * _W1) & _LOW, (k1 + np.uint64(6) * _W1) & _LOW
    k17, k18, k19 = (k1 + np.uint64(7) * _W1) & _LOW, (k1 + np.uint64(8) * _W1) & _LOW, (k1 + np.uint64(9) * _W1) & _LOW
    high_tag = np.uint64(tag) << np.uint64(16)
    low, high = np.uint64(stream_low), np.uint64(stream_high)
    words1, words2, words3 = words + 4 * stride, words + 8 * stride, words + 12 * stride
    for i in range(lanes):
        index = np.uint64(block + i)
        c0, c1, c2, c3 = index & _LOW, ((index >> _HALF) & np.uint64(0xFFFF)) | high_tag, low, high
        c0, c1, c2, c3 = _round(c0, c1, c2, c3, k0, k1)
        c0, c1, c2, c3 = _round(c0, c1, c2, c3, k01, k11)
        c0, c1, c2, c3 = _round(c0, c1, c2, c3, k02, k12)
        c0, c1, c2, c3 = _round(c0, c1, c2, c3, k03, k13)
        c0, c1, c2, c3 = _round(c0, c1, c2, c3, k04, k14)
        c0, c1, c2, c3 = _round(c0, c1, c2, c3, k05, k15)
        c0, c1, c2, c3 = _round(c0, c1, c2, c3, k06, k16)
        c0, c1, c2, c3 = _round(c0, c1, c2, c3, k07, k17)
        c0, c1, c2, c3 = _round(c0, c1, c2, c3, k08, k18)
        c0, c1, c2, c3 = _round(c0, c1, c2, c3, k09, k19)
        store_u32(words, i, np.uint32(c0))
        store_u32(words1, i, np.uint32(c1))
        store_u32(words2, i, np.uint32(c2))
        store_u32(words3, i, np.uint32(c3))


@njit
def _squared_radii(words, squares, lanes):  # type: ignore[no-untyped-def]
    """-2 ln u."""
    for i in range(lanes):
        u = np.float32(np.int32((load_u32(words, i) >> np.uint32(8)) + np.uint32(1))) * _TINY24
        bits = np.int32(bits_of(u))
        exponent = np.int32(np.int32(bits - _CUT) >> np.int32(23))
        f = float_of(np.uint32(bits - np.int32(exponent << np.int32(23)))) - _ONE
        tail = ((((((_L7 * f + _L6) * f + _L5) * f + _L4) * f + _L3) * f + _L2) * f + _L1) * f + _L0
        store_f32(squares, i, _MINUS_TWO * (np.float32(exponent) * _LN2 + (f + (f * f) * tail)))


@njit
def _roots(values, lanes):  # type: ignore[no-untyped-def]
    for i in range(lanes):
        store_f32(values, i, np.sqrt(load_f32(values, i)))


@njit
def _turn(words, cosine_lane, sine_lane, lanes):  # type: ignore[no-untyped-def]
    """Radii in `cosine_lane` become radius * cosine there and radius * sine in `sine_lane`."""
    for i in range(lanes):
        word, radius = load_u32(words, i), load_f32(cosine_lane, i)
        steps = np.int32(np.int32((word >> np.uint32(6)) & np.uint32(0xFFFFFF)) - np.int32(1 << 23))
        t = np.float32(np.int32(np.int32(steps * np.int32(2)) + np.int32(1))) * _TINY25
        square = t * t
        sine = t * (((_S3 * square + _S2) * square + _S1) * square + _S0)
        cosine = ((_C3 * square + _C2) * square + _C1) * square + _C0
        swap = (word & np.uint32(1 << 30)) != 0
        c = sine if swap else cosine
        s = cosine if swap else sine
        # quadrants 1 and 2 negate the cosine (bit 30 xor bit 31), 2 and 3 the sine (bit 31)
        c = float_of(np.uint32(bits_of(c) ^ (np.uint32(word ^ np.uint32(word << np.uint32(1))) & _SIGN)))
        s = float_of(np.uint32(bits_of(s) ^ (word & _SIGN)))
        store_f32(cosine_lane, i, radius * c)
        store_f32(sine_lane, i, radius * s)


@njit
def normal_rows(z, words, stride, lanes):  # type: ignore[no-untyped-def]
    """Four rows of normals, float32 `z[lane * stride + i]`, from four rows of words.

    The formula and the coefficients are those of `zoft.directions.gaussian`. Three short loops rather than one: the chains
    of dependent products are long, and a processor looks only so far ahead for independent ones.
    """
    row = 4 * stride
    for pair in range(0, 4, 2):
        at = z + pair * row
        _squared_radii(words + pair * row, at, lanes)
        _roots(at, lanes)
        _turn(words + (pair + 1) * row, at, at + row, lanes)


@njit
def spread_signs(z, words, stride, lanes, columns, shift, count):  # type: ignore[no-untyped-def]
    """128 signs of each lane into float32 `z[(block row * 128 + bit - shift) * columns + column]`, rows [0, count)."""
    for lane in range(lanes):
        first = (lane // columns) * 128 - shift
        for w in range(4):
            word = load_u32(words, w * stride + lane)
            base = first + 32 * w
            low, high = max(0, -base), min(32, count - base)
            for bit in range(low, high):
                sign = shift_left(shift_right(word, np.uint32(bit)), np.uint32(31))
                store_f32(z, (base + bit) * columns + lane % columns, float_of(np.uint32(sign | bits_of(_ONE))))


@njit
def spread_normals(z, normals, stride, lanes, columns, shift, count):  # type: ignore[no-untyped-def]
    """Four normals of each lane into `z[(block row * 4 + l - shift) * columns + column]`, rows [0, count)."""
    for lane in range(lanes):
        first = (lane // columns) * 4 - shift
        for row in range(max(0, -first), min(4, count - first)):
            store_f32(z, (first + row) * columns + lane % columns, load_f32(normals, row * stride + lane))


@njit
def spread_bits(bits, words, stride, lanes, columns, shift, count):  # type: ignore[no-untyped-def]
    """Eight half-words of each lane into uint32 `bits[(block row * 8 + l - shift) * columns + column]`, rows [0, count)."""
    for lane in range(lanes):
        first = (lane // columns) * 8 - shift
        for row in range(max(0, -first), min(8, count - first)):
            word = load_u32(words, (row >> 1) * stride + lane)
            half = np.uint32(shift_right(word, np.uint32((row & 1) * 16)) & np.uint32(0xFFFF))
            store_u32(bits, (first + row) * columns + lane % columns, half)
