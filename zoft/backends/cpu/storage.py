"""Stored weights to float32, float32 to stored weights, and every rounding in between, for compiled code.

Rounding takes float32 to float32 values that the storage can hold exactly, so several moves can follow one another in a
register-sized buffer; the store is then exact. Only integers decide, so the bits do not depend on the
machine's own conversions.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from zoft.backends.cpu.memory import (
    bits_of,
    float_of,
    load_f32,
    load_i8,
    load_i16,
    load_u16,
    load_u32,
    rotate_right,
    store_f32,
    store_i8,
    store_u16,
)

F32, BF16, F16, F64 = 0, 1, 2, 3  # kinds of storage
NEAREST, STOCHASTIC, RESIDUAL8, RESIDUAL16 = 0, 1, 2, 3  # kinds of rounding

_U0, _U1, _U8, _U13, _U16 = (np.uint32(n) for n in (0, 1, 8, 13, 16))
_ABS, _SIGN, _INF, _NAN = (np.uint32(n) for n in (0x7FFFFFFF, 0x80000000, 0x7F800000, 0x7FC00000))
_REBIAS = np.uint32(112 << 23)  # float32's exponent bias less float16's
_F16_NORMAL = np.uint32(113 << 23)  # bits of 2^-14, the smallest normal float16
_F16_OVER = np.uint32(143 << 23)  # bits of 65536, the first power of two beyond float16
_UP24, _DOWN24, _DOWN16 = np.float32(2.0**24), np.float32(2.0**-24), np.float32(2.0**-16)
_HALF_ONE, _LIMIT = np.float32(0.5), np.float32(1024.0)


@njit
def bfloat_value(stored):  # type: ignore[no-untyped-def]
    """The float32 of a stored bfloat16."""
    return float_of(np.uint32(np.uint32(stored) << _U16))


@njit
def bfloat_nearest(value):  # type: ignore[no-untyped-def]
    """float32 bits rounded to the nearest bfloat16, ties to even, as float32 bits."""
    odd = np.uint32(np.uint32(value >> _U16) & _U1)
    result = np.uint32(np.uint32(value + np.uint32(np.uint32(0x7FFF) + odd)) & np.uint32(0xFFFF0000))
    number = float_of(value)
    return _NAN if number != number else result


@njit
def bfloat_dithered(value, dither):  # type: ignore[no-untyped-def]
    """float32 bits rounded stochastically to bfloat16 by 16 random bits, as float32 bits."""
    result = np.uint32(np.uint32(value + dither) & np.uint32(0xFFFF0000))
    body = np.uint32(value & _ABS)
    result = np.uint32(value & np.uint32(0xFFFF0000)) if body == _INF else result
    return _NAN if body > _INF else result


@njit
def load_row(kind, rounding, source, low, start, acc, count):  # type: ignore[no-untyped-def]
    """`count` stored weights from element `start` on, as float32, into `acc`."""
    if kind == F32:
        source += 4 * start
        for i in range(count):
            store_f32(acc, i, load_f32(source, i))
    elif kind == F16:
        source += 2 * start
        for i in range(count):
            half = np.uint32(load_u16(source, i))
            mantissa, body = half & np.uint32(0x3FF), np.uint32((half & np.uint32(0x7FFF)) << _U13)
            bits = np.uint32(body + _REBIAS)
            bits = np.uint32(_INF | body) if body >= np.uint32(0x1F << 23) else bits
            tiny = bits_of(np.float32(np.int32(mantissa)) * _DOWN24)
            bits = tiny if body < np.uint32(1 << 23) else bits
            store_f32(acc, i, float_of(np.uint32(bits | np.uint32((half & np.uint32(0x8000)) << _U16))))
    else:
        source += 2 * start
        if rounding == RESIDUAL8:
            low += start
            for i in range(count):
                bits = np.uint32(np.uint32(load_u16(source, i)) << _U16)
                store_f32(acc, i, float_of(np.uint32(bits + np.uint32(np.int32(load_i8(low, i)) * np.int32(256)))))
        elif rounding == RESIDUAL16:
            low += 2 * start
            for i in range(count):
                bits = np.uint32(np.uint32(load_u16(source, i)) << _U16)
                store_f32(acc, i, float_of(np.uint32(bits + np.uint32(np.int32(load_i16(low, i))))))
        else:
            for i in range(count):
                store_f32(acc, i, bfloat_value(load_u16(source, i)))


@njit
def store_row(kind, rounding, acc, sink, low, start, count):  # type: ignore[no-untyped-def]
    """`count` float32 values that the storage holds exactly, from `acc` to element `start` on."""
    if kind == F32:
        sink += 4 * start
        for i in range(count):
            store_f32(sink, i, load_f32(acc, i))
    elif kind == F16:
        sink += 2 * start
        for i in range(count):
            bits = load_u32(acc, i)
            body = np.uint32(bits & _ABS)
            tiny = np.uint32(np.int32(min(float_of(body) * _UP24, _LIMIT)))
            half = np.uint32(np.uint32(body - _REBIAS) >> _U13) if body >= _F16_NORMAL else tiny
            half = np.uint32(0x7C00) if body >= _INF else half
            half = np.uint32(0x7E00) if body > _INF else half
            store_u16(sink, i, np.uint16(half | np.uint32(np.uint32(bits & _SIGN) >> _U16)))
    else:
        sink += 2 * start
        if rounding == RESIDUAL8:
            low += start
            for i in range(count):
                bits = load_u32(acc, i)
                high = np.int32(np.int32(np.uint32(bits + np.uint32(0x8000))) >> np.int32(16))
                store_u16(sink, i, np.uint16(high))
                rest = np.int32(np.int32(bits) - np.int32(high << np.int32(16)))
                store_i8(low, i, np.int8(np.int32(rest >> np.int32(8))))
        elif rounding == RESIDUAL16:
            low += 2 * start
            for i in range(count):
                bits = load_u32(acc, i)
                store_u16(sink, i, np.uint16(np.uint32(bits + np.uint32(0x8000)) >> _U16))
                store_u16(low, i, np.uint16(bits))  # modulo 2^16 the remainder is the low half itself
        else:
            for i in range(count):
                store_u16(sink, i, np.uint16(load_u32(acc, i) >> _U16))


@njit
def round_row(kind, rounding, acc, bits, shift, count):  # type: ignore[no-untyped-def]
    """Round `acc` in place; the 16 random bits of element i are the lowest of `bits[i]` turned right by `shift`."""
    if kind == F32 or rounding == RESIDUAL16:
        return
    shift32 = np.uint32(shift)
    if rounding == RESIDUAL8:
        for i in range(count):
            dither = np.uint32(np.uint32(rotate_right(load_u32(bits, i), shift32) & np.uint32(0xFFFF)) >> _U8)
            total = np.uint32(load_u32(acc, i) + dither)
            store_f32(acc, i, float_of(np.uint32(total & np.uint32(0xFFFFFF00))))
    elif kind == BF16 and rounding == NEAREST:
        for i in range(count):
            store_f32(acc, i, float_of(bfloat_nearest(load_u32(acc, i))))
    elif kind == BF16:
        for i in range(count):
            dither = np.uint32(rotate_right(load_u32(bits, i), shift32) & np.uint32(0xFFFF))
            store_f32(acc, i, float_of(bfloat_dithered(load_u32(acc, i), dither)))
    elif rounding == NEAREST:
        for i in range(count):
            value = load_u32(acc, i)
            body, sign = np.uint32(value & _ABS), np.uint32(value & _SIGN)
            odd = np.uint32(np.uint32(body >> _U13) & _U1)
            normal = np.uint32(np.uint32(body + np.uint32(np.uint32(0xFFF) + odd)) & np.uint32(0xFFFFE000))
            normal = _INF if normal >= _F16_OVER else normal
            # float32 has the spacing 2^-24 of small float16 between 0.5 and 1: the addition rounds for us
            tiny = bits_of((float_of(body) + _HALF_ONE) - _HALF_ONE)
            result = tiny if body < _F16_NORMAL else normal
            result = _NAN if body > _INF else result
            store_f32(acc, i, float_of(np.uint32(result | sign)))
    else:
        for i in range(count):
            value = load_u32(acc, i)
            body, sign = np.uint32(value & _ABS), np.uint32(value & _SIGN)
            dither = np.uint32(rotate_right(load_u32(bits, i), shift32) & np.uint32(0xFFFF))
            normal = np.uint32(np.uint32(body + np.uint32(dither >> np.uint32(3))) & np.uint32(0xFFFFE000))
            normal = _INF if normal >= _F16_OVER else normal
            grid = min(float_of(body) * _UP24, _LIMIT)
            whole = np.float32(np.int32(grid))
            up = np.float32(np.int32(dither)) * _DOWN16 < grid - whole
            tiny = bits_of((whole + np.float32(np.int32(up))) * _DOWN24)
            result = tiny if body < _F16_NORMAL else normal
            result = _NAN if body > _INF else result
            store_f32(acc, i, float_of(np.uint32(result | sign)))
