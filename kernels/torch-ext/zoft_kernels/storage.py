"""Stored weights to the accumulator's type and back, on tiles.

16-bit weights are handled as int16 bits: the interpreter knows no bfloat16 arithmetic. On the GPU the rounding to the nearest
bfloat16 is the hardware's; the interpreter cuts instead of rounding, so there integers do it, which gives the same bits.
"""

import triton
import triton.language as tl

FLOAT32, BFLOAT16, FLOAT16, FLOAT64 = (tl.constexpr(n) for n in range(4))
NEAREST, STOCHASTIC, RESIDUAL8, RESIDUAL16 = (tl.constexpr(n) for n in range(4))
INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))


@triton.jit
def _widened(stored):
    """int16 bits of bfloat16 to int32 bits of float32; on the GPU two at a time, as they lie in a register."""
    if INTERPRETED:
        bits = stored.to(tl.int32) << 16
    else:
        pair: tl.constexpr = "shl.b32 $0, $2, 16; and.b32 $1, $2, 0xffff0000;"
        bits = tl.inline_asm_elementwise(pair, "=r,=r,r", [stored], dtype=tl.int32, is_pure=True, pack=2)
    return bits


@triton.jit
def load(weights, lows, offsets, mask, KIND: tl.constexpr, ROUNDING: tl.constexpr):
    """The accumulator of a tile; elements outside `mask` are whatever they are."""
    stored = tl.load(weights + offsets, mask=mask)
    if KIND == BFLOAT16:
        bits = _widened(stored)
        if ROUNDING == RESIDUAL8:
            bits += tl.load(lows + offsets, mask=mask).to(tl.int32) << 8
        if ROUNDING == RESIDUAL16:
            bits += tl.load(lows + offsets, mask=mask).to(tl.int32)
        value = bits.to(tl.float32, bitcast=True)
    elif KIND == FLOAT16:
        value = stored.to(tl.float16, bitcast=True).to(tl.float32)
    else:
        value = stored
    return value


@triton.constexpr_function
def dithered(kind, rounding):
    """Does this rounding need random bits? (Of a jitted function Triton 3.6 asks it anew in every program.)"""
    return kind in (1, 2) and rounding in (1, 2)  # BFLOAT16, FLOAT16; STOCHASTIC, RESIDUAL8


@triton.jit
def _nearest_bfloat16(value):
    """float32 to the nearest bfloat16, ties to even, as float32."""
    if INTERPRETED:
        bits = value.to(tl.int32, bitcast=True)
        rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) & -65536
        result = tl.where(value != value, 0x7FC00000, rounded).to(tl.float32, bitcast=True)
    else:
        pair: tl.constexpr = "cvt.rn.bf16x2.f32 $0, $2, $1;"
        stored = tl.inline_asm_elementwise(pair, "=r,f,f", [value], dtype=tl.int16, is_pure=True, pack=2)
        result = (stored.to(tl.int32) << 16).to(tl.float32, bitcast=True)
    return result


@triton.jit
def _stochastic_float16(value, dither):
    """float32 to one of its two neighbours in float16 by the 16 bits of `dither`, as float32."""
    bits = value.to(tl.int32, bitcast=True)
    body, sign = bits & 0x7FFFFFFF, bits & -2147483648
    normal = (body + (dither >> 3)) & -8192
    grid = tl.minimum(body.to(tl.float32, bitcast=True) * 16777216.0, 1024.0)  # units of the smallest subnormal
    whole = grid.to(tl.int32).to(tl.float32)
    up = tl.where(dither.to(tl.float32) * 1.52587890625e-05 < grid - whole, 1.0, 0.0)
    tiny = ((whole + up) * 5.9604644775390625e-08).to(tl.int32, bitcast=True)
    bits = tl.where(body < 0x38800000, tiny, normal)
    bits = tl.where(body >= 0x7F800000, body, bits) | sign
    return bits.to(tl.float32, bitcast=True).to(tl.float16).to(tl.float32)


@triton.jit
def round_value(value, dither, KIND: tl.constexpr, ROUNDING: tl.constexpr):
    """The value that storage will hold, in the accumulator's type."""
    if KIND == FLOAT16:
        if ROUNDING == NEAREST:
            value = value.to(tl.float16).to(tl.float32)
        else:
            value = _stochastic_float16(value, dither)
    elif KIND == BFLOAT16:
        if ROUNDING == NEAREST:
            value = _nearest_bfloat16(value)
        elif ROUNDING == RESIDUAL8:
            value = ((value.to(tl.int32, bitcast=True) + (dither >> 8)) & -256).to(tl.float32, bitcast=True)
        elif ROUNDING == STOCHASTIC:
            bits = value.to(tl.int32, bitcast=True)
            bits = tl.where((bits & 0x7FFFFFFF) == 0x7F800000, bits, (bits + dither) & -65536)
            value = tl.where(value != value, 0x7FC00000, bits).to(tl.float32, bitcast=True)
    return value


@triton.jit
def shown(value, KIND: tl.constexpr, ROUNDING: tl.constexpr):
    """What a forward pass reads of a stored value: without the residual bits."""
    if KIND == BFLOAT16 and (ROUNDING == RESIDUAL8 or ROUNDING == RESIDUAL16):
        value = ((value.to(tl.int32, bitcast=True) + 0x8000) & -65536).to(tl.float32, bitcast=True)
    return value


@triton.jit
def store(
    value, weights, lows, offsets, mask, KIND: tl.constexpr, ROUNDING: tl.constexpr, STORE_LOW: tl.constexpr
):  # fmt: skip
    """Store a value that `round_value` returned."""
    if KIND == BFLOAT16:
        bits = value.to(tl.int32, bitcast=True)
        high = bits >> 16
        if ROUNDING == RESIDUAL8 or ROUNDING == RESIDUAL16:
            high = (bits + 0x8000) >> 16
            rest = bits - (high << 16)
            if STORE_LOW and ROUNDING == RESIDUAL8:
                tl.store(lows + offsets, (rest >> 8).to(tl.int8), mask=mask)
            elif STORE_LOW:
                tl.store(lows + offsets, rest.to(tl.int16), mask=mask)
        tl.store(weights + offsets, high.to(tl.int16), mask=mask)
    elif KIND == FLOAT16:
        tl.store(weights + offsets, value.to(tl.float16).to(tl.int16, bitcast=True), mask=mask)
    else:
        tl.store(weights + offsets, value, mask=mask)
