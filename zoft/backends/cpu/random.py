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
    rotate_right,
    shift_left,
    shift_right,
    store_f32,
    store_u32,
)
from zoft.backends.cpu.plan import NARROW_LANES
from zoft.directions import gaussian, philox

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_M0, _M1 = (np.uint64(m) for m in philox.MULTIPLIERS)
_W0, _W1 = (np.uint64(w) for w in philox.KEY_INCREMENTS)
_L0, _L1, _L2, _L3, _L4, _L5, _L6, _L7 = (
    np.float32(np.float32(c) * 2.0 ** -(k + 1)) for k, c in enumerate(gaussian.LOG)
)  # in 2 f instead of f, halved
_S0, _S1, _S2, _S3 = (np.float32(c) for c in gaussian.SINE)
_C0, _C1, _C2, _C3 = (np.float32(c) for c in gaussian.COSINE)
_MINUS_2LN2 = np.float32(-2.0 * np.float32(gaussian.LN2))
_CUT24, _CUT2 = np.int32(gaussian.SQRT_HALF_BITS + (24 << 23)), np.int32(gaussian.SQRT_HALF_BITS + (1 << 23))
_ONE, _TWO = np.float32(1.0), np.float32(2.0)
_ROW, _TWO_ROWS, _THREE_ROWS, _FOUR_ROWS = (np.int64(4 * NARROW_LANES * rows) for rows in (1, 2, 3, 4))  # in bytes
_SIGN, _ONE_BIT = np.uint32(0x80000000), np.uint32(1)
_COARSE, _FINE, _ONE_AND_HALF_STEP = np.uint32(0x3F << 17), np.uint32(0xFF << 9), np.uint32(0x3F800000 + (1 << 8))
_CENTRE = np.float32(1.5)


@njit
def _round(c0, c1, c2, c3, k0, k1):  # type: ignore[no-untyped-def]
    a, b = _M0 * c0, _M1 * c2
    return (b >> _HALF) ^ c1 ^ k0, b & _LOW, (a >> _HALF) ^ c3 ^ k1, a & _LOW


@njit
def philox_row(words, stride, block, skip, lanes, tag, stream_low, stream_high, seed, step):  # type: ignore[no-untyped-def]
    """Philox4x32-10: word w of block `block + (i << skip)`, lane i, goes to uint32 `words[w * stride + i]`.

    `skip` is 0 (all blocks) or 1 (every second one). The stream and the upper half of a block's number are the same for all
    lanes between two multiples of 2^32, so half of the first two rounds is done once for all of them.
    """
    k0, k1 = np.uint64(seed), np.uint64(step)
    k01, k02, k03 = (k0 + _W0) & _LOW, (k0 + np.uint64(2) * _W0) & _LOW, (k0 + np.uint64(3) * _W0) & _LOW
    k04, k05, k06 = (k0 + np.uint64(4) * _W0) & _LOW, (k0 + np.uint64(5) * _W0) & _LOW, (k0 + np.uint64(6) * _W0) & _LOW
    k07, k08, k09 = (k0 + np.uint64(7) * _W0) & _LOW, (k0 + np.uint64(8) * _W0) & _LOW, (k0 + np.uint64(9) * _W0) & _LOW
    k11, k12, k13 = (k1 + _W1) & _LOW, (k1 + np.uint64(2) * _W1) & _LOW, (k1 + np.uint64(3) * _W1) & _LOW
    k14, k15, k16 = (k1 + np.uint64(4) * _W1) & _LOW, (k1 + np.uint64(5) * _W1) & _LOW, (k1 + np.uint64(6) * _W1) & _LOW
    k17, k18, k19 = (k1 + np.uint64(7) * _W1) & _LOW, (k1 + np.uint64(8) * _W1) & _LOW, (k1 + np.uint64(9) * _W1) & _LOW
    fixed = _M1 * np.uint64(stream_low)
    done = np.int64(0)
    while done < lanes:
        begin = block + (done << skip)
        run = min(lanes - done, ((((begin >> 32) + 1) << 32) - begin + skip) >> skip)
        upper = (np.uint64(begin >> 32) & np.uint64(0xFFFF)) | (np.uint64(tag) << np.uint64(16))
        second = _M0 * ((fixed >> _HALF) ^ upper ^ k0)  # of round 2, from the first word after round 1
        from0, from2 = (fixed & _LOW) ^ k01, (second >> _HALF) ^ k11
        key, low3 = np.uint64(stream_high) ^ k1, second & _LOW
        at, at1 = words + 4 * done, words + 4 * (stride + done)
        at2, at3 = words + 4 * (2 * stride + done), words + 4 * (3 * stride + done)
        for i in range(run):
            first = _M0 * (np.uint64(begin + (i << skip)) & _LOW)
            other = _M1 * ((first >> _HALF) ^ key)
            c0, c1, c2, c3 = (other >> _HALF) ^ from0, other & _LOW, (first & _LOW) ^ from2, low3
            c0, c1, c2, c3 = _round(c0, c1, c2, c3, k02, k12)
            c0, c1, c2, c3 = _round(c0, c1, c2, c3, k03, k13)
            c0, c1, c2, c3 = _round(c0, c1, c2, c3, k04, k14)
            c0, c1, c2, c3 = _round(c0, c1, c2, c3, k05, k15)
            c0, c1, c2, c3 = _round(c0, c1, c2, c3, k06, k16)
            c0, c1, c2, c3 = _round(c0, c1, c2, c3, k07, k17)
            c0, c1, c2, c3 = _round(c0, c1, c2, c3, k08, k18)
            c0, c1, c2, c3 = _round(c0, c1, c2, c3, k09, k19)
            store_u32(at, i, np.uint32(c0))
            store_u32(at1, i, np.uint32(c1))
            store_u32(at2, i, np.uint32(c2))
            store_u32(at3, i, np.uint32(c3))
        done += run


@njit
def _mantissa_exponent(word):  # type: ignore[no-untyped-def]
    """2 (m - 1) and -2 ln 2 e, where u = m 2^e with m in [sqrt(1/2), sqrt(2)) and u is `word`'s uniform.

    u 2^24 is an integer: its bits are those of u but for the exponent, so u itself is never made.
    """
    above = np.int32(bits_of(np.float32(np.int32((word >> np.uint32(8)) + np.uint32(1)))) - _CUT24)
    doubled = float_of(np.uint32(np.int32(np.int32(above & np.int32(0x7FFFFF)) + _CUT2)))
    return doubled - _TWO, np.float32(np.int32(above >> np.int32(23))) * _MINUS_2LN2


@njit
def _squared_radii(words, z, lanes):  # type: ignore[no-untyped-def]
    """-2 ln u of two rows of words, into the first and third of four rows of z.

    The formula of `zoft.directions.gaussian` in g = 2 (m - 1): factors that are powers of two change no rounding, and the last
    subtraction spares a product with -2 and has its zero, -0.
    """
    for i in range(lanes):
        f, first = _mantissa_exponent(load_u32(words, i))
        g, second = _mantissa_exponent(load_u32(words + _ROW, i))
        a, b = _L7 * f + _L6, _L7 * g + _L6
        a, b = a * f + _L5, b * g + _L5
        a, b = a * f + _L4, b * g + _L4
        a, b = a * f + _L3, b * g + _L3
        a, b = a * f + _L2, b * g + _L2
        a, b = a * f + _L1, b * g + _L1
        a, b = a * f + _L0, b * g + _L0
        store_f32(z, i, first - (f + (f * f) * a))
        store_f32(z + _TWO_ROWS, i, second - (g + (g * g) * b))


@njit
def _angle(word):  # type: ignore[no-untyped-def]
    """t of a word: the mantissa of a float in (1, 2) is bits 2 to 7, then 8 to 15, and a half."""
    coarse = np.uint32(np.uint32(word << np.uint32(15)) & _COARSE)
    fine = np.uint32(np.uint32(word << np.uint32(1)) & _FINE)
    return float_of(np.uint32(np.uint32(coarse | fine) | _ONE_AND_HALF_STEP)) - _CENTRE


@njit
def _turn(words, z, lanes):  # type: ignore[no-untyped-def]
    """Squared radii in the first and third of four rows of z become four rows of normals."""
    for i in range(lanes):
        word, other = load_u32(words, i), load_u32(words + _ROW, i)
        radius, radius2 = np.sqrt(load_f32(z, i)), np.sqrt(load_f32(z + _TWO_ROWS, i))
        t, v = _angle(word), _angle(other)
        p, q = t * t, v * v
        s, u, c, d = _S3 * p + _S2, _S3 * q + _S2, _C3 * p + _C2, _C3 * q + _C2
        s, u, c, d = s * p + _S1, u * q + _S1, c * p + _C1, d * q + _C1
        s, u, c, d = s * p + _S0, u * q + _S0, c * p + _C0, d * q + _C0
        c, s = radius * _flipped(word, c), radius * (t * s)
        d, u = radius2 * _flipped(other, d), radius2 * (v * u)
        swap, swap2 = (word & _ONE_BIT) != 0, (other & _ONE_BIT) != 0
        store_f32(z, i, s if swap else c)
        store_f32(z + _ROW, i, c if swap else s)
        store_f32(z + _TWO_ROWS, i, u if swap2 else d)
        store_f32(z + _THREE_ROWS, i, d if swap2 else u)


@njit
def _flipped(word, cosine):  # type: ignore[no-untyped-def]
    """Negated where bit 1 of the word says so."""
    return float_of(np.uint32(bits_of(cosine) ^ (np.uint32(word << np.uint32(30)) & _SIGN)))


@njit
def normal_rows(z, words, lanes):  # type: ignore[no-untyped-def]
    """Eight rows of normals, float32 `z[lane * NARROW_LANES + i]`, from four rows of words that lie as far apart.

    The bits are those of `zoft.directions.gaussian`. Two loops, each over two rows of words: chains of dependent
    products are long, and a processor looks only so far ahead for independent ones (docs/performance.md).
    """
    _squared_radii(words, z, lanes)
    _turn(words, z, lanes)
    _squared_radii(words + _TWO_ROWS, z + _FOUR_ROWS, lanes)
    _turn(words + _TWO_ROWS, z + _FOUR_ROWS, lanes)


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
    """Eight normals of each lane into `z[(block row * 8 + l - shift) * columns + column]`, rows [0, count)."""
    for lane in range(lanes):
        first = (lane // columns) * 8 - shift
        for row in range(max(0, -first), min(8, count - first)):
            store_f32(z, (first + row) * columns + lane % columns, load_f32(normals, row * stride + lane))


@njit
def spread_bits(bits, words, stride, lanes, columns, shift, count):  # type: ignore[no-untyped-def]
    """16 times 16 bits of each lane into uint32 `bits[(block row * 16 + l - shift) * columns + column]`, rows [0, count)."""
    for lane in range(lanes):
        first = (lane // columns) * 16 - shift
        for row in range(max(0, -first), min(16, count - first)):
            word = load_u32(words, (row >> 2) * stride + lane)
            half = np.uint32(rotate_right(word, np.uint32((row & 3) * 8)) & np.uint32(0xFFFF))
            store_u32(bits, (first + row) * columns + lane % columns, half)
