"""Stored weights to the accumulator's type and back, on tiles.

16-bit weights are handled as int16 bits: only integers decide how bfloat16 is rounded, so interpreter and GPU agree.
"""

import triton
import triton.language as tl

FLOAT32, BFLOAT16, FLOAT16, FLOAT64 = (tl.constexpr(n) for n in range(4))
NEAREST, STOCHASTIC, RESIDUAL8, RESIDUAL16 = (tl.constexpr(n) for n in range(4))


@triton.jit
def load(weights, lows, offsets, mask, KIND: tl.constexpr, ROUNDING: tl.constexpr):
    """The accumulator of a tile; elements outside `mask` are zero."""
    stored = tl.load(weights + offsets, mask=mask, other=0)
    if KIND == BFLOAT16:
        bits = stored.to(tl.int32) << 16
        if ROUNDING == RESIDUAL8:
            bits += tl.load(lows + offsets, mask=mask, other=0).to(tl.int32) << 8
        if ROUNDING == RESIDUAL16:
            bits += tl.load(lows + offsets, mask=mask, other=0).to(tl.int32)
        value = bits.to(tl.float32, bitcast=True)
    elif KIND == FLOAT16:
        value = stored.to(tl.float16, bitcast=True).to(tl.float32)
    else:
        value = stored
    return value


@triton.jit
def _round_float16(value, dither, ROUNDING: tl.constexpr):
    """float32 to the nearest float16, or to a neighbour by the 16 bits of `dither`."""
    if ROUNDING == NEAREST:
        return value.to(tl.float16).to(tl.float32)
    bits = value.to(tl.int32, bitcast=True)
    body, sign = bits & 0x7FFFFFFF, bits & -2147483648
    normal = (body + (dither >> 3)) & -8192
    grid = tl.minimum((body.to(tl.float32, bitcast=True)) * 16777216.0, 1024.0)  # units of the smallest subnormal
    whole = grid.to(tl.int32).to(tl.float32)
    up = tl.where(dither.to(tl.float32) * 1.52587890625e-05 < grid - whole, 1.0, 0.0)
    tiny = ((whole + up) * 5.9604644775390625e-08).to(tl.int32, bitcast=True)
    result = tl.where(body < 0x38800000, tiny, normal)
    result = tl.where(body >= 0x7F800000, body, result) | sign
    return result.to(tl.float32, bitcast=True).to(tl.float16).to(tl.float32)


@triton.jit
def round_value(value, dither, KIND: tl.constexpr, ROUNDING: tl.constexpr):
    """The value that storage will hold, in the accumulator's type."""
    if KIND == FLOAT16:
        value = _round_float16(value, dither, ROUNDING)
    elif KIND == BFLOAT16:
        bits = value.to(tl.int32, bitcast=True)
        body = bits & 0x7FFFFFFF
        if ROUNDING == RESIDUAL8:
            bits = (bits + (dither >> 8)) & -256
        elif ROUNDING == NEAREST:
            rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) & -65536
            bits = tl.where(body > 0x7F800000, 0x7FC00000, rounded)
        elif ROUNDING == STOCHASTIC:
            rounded = tl.where(body == 0x7F800000, bits, (bits + dither) & -65536)
            bits = tl.where(body > 0x7F800000, 0x7FC00000, rounded)
        value = bits.to(tl.float32, bitcast=True)
    return value


@triton.jit
def store(value, weights, lows, offsets, mask, KIND: tl.constexpr, ROUNDING: tl.constexpr):
    """Store a value that `round_value` returned."""
    if KIND == BFLOAT16:
        bits = value.to(tl.int32, bitcast=True)
        if ROUNDING == RESIDUAL8 or ROUNDING == RESIDUAL16:
            high = (bits + 0x8000) >> 16
            rest = bits - (high << 16)
            if ROUNDING == RESIDUAL8:
                tl.store(lows + offsets, (rest >> 8).to(tl.int8), mask=mask)
            else:
                tl.store(lows + offsets, rest.to(tl.int16), mask=mask)
            tl.store(weights + offsets, high.to(tl.int16), mask=mask)
        else:
            tl.store(weights + offsets, (bits >> 16).to(tl.int16), mask=mask)
    elif KIND == FLOAT16:
        tl.store(weights + offsets, value.to(tl.float16).to(tl.int16, bitcast=True), mask=mask)
    else:
        tl.store(weights + offsets, value, mask=mask)
