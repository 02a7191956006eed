"""What is drawn from Philox4x32-10, on tiles of any shape.

A block (int64) and a lane each come in the shape they vary over: blocks [1, columns] with lanes [rows, 1] cost one Philox call
a column, whatever the number of rows.
"""

import triton
import triton.language as tl


@triton.jit
def draw(block, tag, stream, key):
    """128 random bits a block: four uint32 tiles.

    counter = (block low 32, tag:16 | block high:16, stream low 32, stream high 32), key = seed + 2^32 step; all int64.
    """
    second = ((block >> 32) & 0xFFFF) | (tag << 16)
    return tl.philox(key, block.to(tl.uint32), second.to(tl.uint32), stream.to(tl.uint32), (stream >> 32).to(tl.uint32))


@triton.jit
def pick(words, which):
    """words[which] of a tuple of four tiles; `which` broadcasts."""
    return tl.where(which < 2, tl.where(which == 0, words[0], words[1]), tl.where(which == 2, words[2], words[3]))


@triton.jit
def sign_bit(words, which, lane):
    """Bit `lane` (modulo 32) of words[which], moved to bit 31 of a uint32: the sign bit of z."""
    return (pick(words, which) << (31 - (lane & 31)).to(tl.uint32)) & 0x80000000


@triton.jit
def dither_bits(words, lane):
    """16 rounding bits of lane `lane` (of 16), int32: the lower half of a word turned right by whole bytes."""
    word, turn = pick(words, lane >> 2), ((lane & 3) * 8).to(tl.uint32)
    return (((word >> turn) | (word << ((32 - turn) & 31))) & 0xFFFF).to(tl.int32)


@triton.jit
def normal_pair(word):
    """Two normals from one word by Box-Muller with short polynomials: lanes 2 w and 2 w + 1, float32.

    Products and sums must be rounded one at a time: compile with enable_fp_fusion=False.
    """
    u = ((word >> 8) + 1).to(tl.int32).to(tl.float32) * 5.9604644775390625e-08
    bits = u.to(tl.int32, bitcast=True)
    exponent = (bits - 0x3F3504F3) >> 23
    f = (bits - (exponent << 23)).to(tl.float32, bitcast=True) - 1.0
    tail = 0.08734840899705887 * f + -0.14307521283626556
    tail = tail * f + 0.14917974174022675
    tail = tail * f + -0.16570508480072021
    tail = tail * f + 0.19962072372436523
    tail = tail * f + -0.25001755356788635
    tail = tail * f + 0.33333951234817505
    tail = tail * f + -0.49999991059303284
    log = exponent.to(tl.float32) * 0.6931471824645996 + (f + (f * f) * tail)
    radius = tl.sqrt_rn(-2.0 * log)
    # the mantissa of a float in (1, 2): bits 2 to 7, then 8 to 15, and a half
    mantissa = ((word << 15) & 0x007E0000) | ((word << 1) & 0x0001FE00) | 0x3F800100
    t = mantissa.to(tl.float32, bitcast=True) - 1.5
    square = t * t
    sine = -0.004602177068591118 * square + 0.07968022674322128
    sine = sine * square + -0.6459634900093079
    short = radius * (t * (sine * square + 1.5707963705062866))
    cosine = -0.020408352836966515 * square + 0.2535986304283142
    cosine = cosine * square + -1.2336970567703247
    cosine = cosine * square + 1.0
    long = radius * tl.where((word & 2) == 0, cosine, -cosine)
    swap = (word & 1) == 1
    return tl.where(swap, short, long), tl.where(swap, long, short)
