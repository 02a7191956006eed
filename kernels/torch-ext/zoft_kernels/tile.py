"""All moves on one tile of one parameter: what `axpby_` and `sweep_` share.

A program owns 128 rows (the rows that share one Philox block of signs) by COLUMNS columns and walks through them in slices,
arranged so that rows which share a block of the finest draw meet under one index; the compiler then draws each block once:

    BY_WORD   4 slices w, rows 32 w + r: the rows of one word of signs; nothing else is drawn
    BY_FOUR   4 slices l, rows 4 r + l: row r of normal blocks, lane l
    BY_EIGHT  8 slices l, rows 8 r + l: row r of rounding blocks, lane l
    FLAT      for few columns: 1024 consecutive elements, each drawing its own blocks
"""

import triton
import triton.language as tl

from .philox import half_words, normals, sign_bits
from .storage import BFLOAT16, FLOAT16, FLOAT64, NEAREST, RESIDUAL16, load, round_value, store

BY_WORD, BY_FOUR, BY_EIGHT, FLAT = (tl.constexpr(n) for n in range(4))
ROUNDING_TAG = tl.constexpr(2 << 12)  # domain 2, index 0
FLAT_ELEMENTS = tl.constexpr(1024)


@triton.jit
def _add_term(
    value, term, scale, column, sign_group, sign_lane, normal_group, normal_lane,
    total_columns, stream_low, stream_high,
    SIGNS: tl.constexpr, NORMALS: tl.constexpr, KIND: tl.constexpr, WORD: tl.constexpr,
):  # fmt: skip
    """value + scale * z for one term of the table."""
    kind, seed, step, tag = tl.load(term), tl.load(term + 1), tl.load(term + 2), tl.load(term + 3)
    factor = tl.load(scale)
    if KIND != FLOAT64:
        factor = factor.to(tl.float32)
    if NORMALS and (not SIGNS or kind != 0):
        block = normal_group * total_columns + column
        z = normals(block, normal_lane, tag, stream_low, stream_high, seed, step)
        value += z.to(value.dtype) * factor
    if SIGNS and (not NORMALS or kind == 0):
        block = sign_group * total_columns + column
        sign = sign_bits(block, sign_lane, tag, stream_low, stream_high, seed, step, WORD)
        if KIND == FLOAT64:
            value += tl.where(sign == 0, factor, -factor)
        else:
            value += (sign ^ factor.to(tl.uint32, bitcast=True)).to(tl.float32, bitcast=True)
    return value


@triton.jit
def _one_move(
    value, move, decay, terms, scales, column, sign_group, sign_lane, normal_group, normal_lane, bits_group, bits_lane,
    total_columns, stream_low, stream_high, decays,
    SIGNS: tl.constexpr, NORMALS: tl.constexpr, KIND: tl.constexpr, ROUNDING: tl.constexpr, WORD: tl.constexpr,
    ONE_TERM: tl.constexpr,
):  # fmt: skip
    """round(decay * value + the move's terms)."""
    first, last = tl.load(move), tl.load(move + 1)
    factor = tl.load(decay)
    if KIND != FLOAT64:
        factor = factor.to(tl.float32)
    value = value * tl.where(decays != 0, factor, 1.0).to(value.dtype)
    if ONE_TERM:
        value = _add_term(
            value, terms, scales, column, sign_group, sign_lane, normal_group, normal_lane,
            total_columns, stream_low, stream_high, SIGNS, NORMALS, KIND, WORD,
        )  # fmt: skip
    else:
        for term in range(first, last):
            value = _add_term(
                value, terms + 4 * term, scales + term, column, sign_group, sign_lane, normal_group, normal_lane,
                total_columns, stream_low, stream_high, SIGNS, NORMALS, KIND, WORD,
            )  # fmt: skip
    dither = tl.zeros_like(value).to(tl.int32)
    if (KIND == BFLOAT16 or KIND == FLOAT16) and (ROUNDING != NEAREST and ROUNDING != RESIDUAL16):
        seed, step, tag = tl.load(move + 2), tl.load(move + 3), tl.full([], ROUNDING_TAG, tl.int64)
        block = bits_group * total_columns + column
        dither = half_words(block, bits_lane, tag, stream_low, stream_high, seed, step)
    return round_value(value, dither, KIND, ROUNDING)


@triton.jit
def _slice(
    source, sink, low_source, low_sink, offsets, mask,
    moves, decay_table, terms, scales, move_count,
    column, sign_group, sign_lane, normal_group, normal_lane, bits_group, bits_lane,
    total_columns, stream_low, stream_high, decays,
    SIGNS: tl.constexpr, NORMALS: tl.constexpr, KIND: tl.constexpr, ROUNDING: tl.constexpr, WORD: tl.constexpr,
    ONE_TERM: tl.constexpr,
):  # fmt: skip
    """Load, every move, store."""
    value = load(source, low_source, offsets, mask, KIND, ROUNDING)
    if ONE_TERM:  # one move of one term: no loop, so that the slices' draws can be merged
        value = _one_move(
            value, moves, decay_table, terms, scales, column,
            sign_group, sign_lane, normal_group, normal_lane, bits_group, bits_lane,
            total_columns, stream_low, stream_high, decays, SIGNS, NORMALS, KIND, ROUNDING, WORD, ONE_TERM,
        )  # fmt: skip
    else:
        for move in range(move_count):
            value = _one_move(
                value, moves + 4 * move, decay_table + move, terms, scales, column,
                sign_group, sign_lane, normal_group, normal_lane, bits_group, bits_lane,
                total_columns, stream_low, stream_high, decays, SIGNS, NORMALS, KIND, ROUNDING, WORD, ONE_TERM,
            )  # fmt: skip
    store(value, sink, low_sink, offsets, mask, KIND, ROUNDING)


@triton.jit
def move_tile(
    source, sink, low_source, low_sink, moves, decay_table, terms, scales, move_count,
    row, rows, column, columns, total_columns, stream_low, stream_high, decays, row_tile, column_tile,
    SIGNS: tl.constexpr, NORMALS: tl.constexpr, KIND: tl.constexpr, ROUNDING: tl.constexpr, MODE: tl.constexpr,
    ONE_TERM: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Tile (row_tile, column_tile) of a window [rows, columns] whose first element is (row, column) of the parameter."""
    if MODE == FLAT:
        offsets = row_tile.to(tl.int64) * FLAT_ELEMENTS + tl.arange(0, FLAT_ELEMENTS)
        at = row + offsets // columns
        lane = at.to(tl.int32)  # only its low bits are used
        _slice(
            source, sink, low_source, low_sink, offsets, offsets < rows.to(tl.int64) * columns,
            moves, decay_table, terms, scales, move_count,
            column + offsets % columns, at >> 7, lane & 127, at >> 2, lane & 3, at >> 3, lane & 7,
            total_columns, stream_low, stream_high, decays, SIGNS, NORMALS, KIND, ROUNDING, -1, ONE_TERM,
        )  # fmt: skip
        return
    local = column_tile * COLUMNS + tl.arange(0, COLUMNS)[None, :]  # column of the window
    base = ((row >> 7) + row_tile) << 7  # a multiple of 128: first row of the tile in the parameter
    for part in tl.static_range(8 if MODE == BY_EIGHT else 4):
        if MODE == BY_EIGHT:
            r = tl.arange(0, 16)[:, None]
            inside, fourth, eighth = 8 * r + part, 2 * r + part // 4, r
        elif MODE == BY_FOUR:
            r = tl.arange(0, 32)[:, None]
            inside, fourth, eighth = 4 * r + part, r, r // 2
        else:
            r = tl.arange(0, 32)[:, None]
            inside, fourth, eighth = 32 * part + r, r, r
        at = base + inside
        lane = tl.full([1, 1], part, tl.int32)
        _slice(
            source, sink, low_source, low_sink, (at - row) * columns + local,
            (at >= row) & (at < row + rows) & (local < columns),
            moves, decay_table, terms, scales, move_count,
            column + local, base >> 7, inside, (base >> 2) + fourth, lane & 3, (base >> 3) + eighth, lane,
            total_columns, stream_low, stream_high, decays,
            SIGNS, NORMALS, KIND, ROUNDING, part if MODE == BY_WORD else -1, ONE_TERM,
        )  # fmt: skip
