"""Normals by Box-Muller in float32, defined down to the last bit.

The library functions log, sin and cos differ between devices. Here they are short polynomials evaluated with separately rounded
multiplications and additions and one IEEE square root, so every backend that does the same operations in the same order returns
the same bits. One Philox call gives eight normals, a word two of them, a point in the plane:

    u = ((word >> 8) + 1) / 2^24                      in (0, 1]
    r = sqrt(-2 ln u)                                 at most 5.77
    n = 256 (bits 2 to 7) + bits 8 to 15 of the word  in [0, 2^14)
    t = (2 n + 1) / 2^15 - 1/2                        in (-1/2, 1/2), quarter turns
    long = r cos(pi/2 t), negated where bit 1 is set; short = r sin(pi/2 t)
    lanes 2 w and 2 w + 1 = long, short of word w; where its bit 0 is set, short, long

Bits 8 to 15 serve twice, as the finest of u and as the finest of t, so that the points lie on spirals instead of circles.
Neither is less uniform for it: there are 2^24 radii and 2^16 angles, and an angle tells of u what lies beyond its first
16 bits. Over all words the mean is -7e-8, the variance 1 - 5e-7, the third moment -1e-6, the fourth 3 - 1.5e-5; the two of a
word are uncorrelated, as bit 1 turns the sign of their product; beyond 4 and 5 standard deviations lie 0.9995 and 0.98 of what
should (`tests/directions/test_directions.py` adds them up).

The coefficients are minimax fits made for this file: relative error 3.0e-8 for ln, 2.8e-8 absolute for cosine and 4.8e-9 for
sine on a quarter turn, all below half a unit in the last place of float32.
"""

from __future__ import annotations

import torch

from zoft.directions.address import Window, block_counters, counters
from zoft.directions.philox import Words, philox4x32
from zoft.directions.roots import root

LANES = 8  # rows that one Philox call serves

# ln(1 + f) = f + f^2 * (LOG[0] + LOG[1] f + ...), f in [sqrt(1/2) - 1, sqrt(2) - 1]
LOG = (
    -0.49999991059303284,
    0.33333951234817505,
    -0.25001755356788635,
    0.19962072372436523,
    -0.16570508480072021,
    0.14917974174022675,
    -0.14307521283626556,
    0.08734840899705887,
)
# sin(pi/2 t) = t * (SINE[0] + SINE[1] t^2 + ...),  cos(pi/2 t) = COSINE[0] + COSINE[1] t^2 + ...,  |t| <= 1/2
SINE = (1.5707963705062866, -0.6459634900093079, 0.07968022674322128, -0.004602177068591118)
COSINE = (1.0, -1.2336970567703247, 0.2535986304283142, -0.020408352836966515)
LN2 = 0.6931471824645996  # float32(ln 2)
SQRT_HALF_BITS = 0x3F3504F3  # float32(sqrt(1/2)): where the mantissa range is cut


def _horner(coefficients: tuple[float, ...], x: torch.Tensor) -> torch.Tensor:
    """coefficients[0] + x (coefficients[1] + x (...)), each product and sum rounded to float32."""
    result = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        result = result * x + coefficient
    return result


def _radius(word: torch.Tensor) -> torch.Tensor:
    """sqrt(-2 ln u) for int64 words, float32."""
    u = ((word >> 8) + 1).to(torch.float32) * 2.0**-24
    bits = u.view(torch.int32)
    exponent = (bits - SQRT_HALF_BITS) >> 23  # u = m 2^exponent with m in [sqrt(1/2), sqrt(2))
    mantissa = (bits - (exponent << 23)).view(torch.float32)
    f = mantissa - 1.0
    log = exponent.to(torch.float32) * LN2 + (f + (f * f) * _horner(LOG, f))
    return root(-2.0 * log)


def _legs(word: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin of a uniform angle of at most an eighth of a turn for int64 words, the cosine with a random sign; float32."""
    n = ((word >> 2) & 0x3F) << 8 | ((word >> 8) & 0xFF)
    t = (2 * n + 1 - (1 << 14)).to(torch.float32) * 2.0**-15
    square = t * t
    sine, cosine = t * _horner(SINE, square), _horner(COSINE, square)
    return torch.where((word & 2) == 0, cosine, -cosine), sine


def box_muller(words: Words) -> torch.Tensor:
    """Eight normals from 128 bits: words of shape [...], result float32 [8, ...]."""
    lanes = []
    for word in words:
        radius = _radius(word)
        cosine, sine = _legs(word)
        long, short, swap = radius * cosine, radius * sine, (word & 1) == 1
        lanes += [torch.where(swap, short, long), torch.where(swap, long, short)]
    return torch.stack(lanes)


def normals(window: Window, key: tuple[int, int], counter_tag: int, device: torch.device) -> torch.Tensor:
    """z[row, column] = lane (row % 8) of the block ((row // 8) * K + column).

    Returns:
        float32 [rows, columns].
    """
    words, offset = counters(window, counter_tag, LANES, device)
    flat = box_muller(philox4x32(words, key)).transpose(0, 1).reshape(-1, window.columns)
    return flat[offset : offset + window.rows]


def normal_rows(window: Window, rows: torch.Tensor, key: tuple[int, int], counter_tag: int) -> torch.Tensor:
    """z on single rows [n] int64 of the window: float32 [n, columns]."""
    row = window.row + rows
    lanes = box_muller(philox4x32(block_counters(window, row // LANES, counter_tag), key))  # [8, n, columns]
    return lanes.gather(0, (row % LANES)[:, None].expand(lanes.shape[1:])[None])[0]
