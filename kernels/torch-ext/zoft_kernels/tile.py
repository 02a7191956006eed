"""All moves on one tile of one parameter: what `axpby_` and `sweep_` share.

A program owns 128 rows (the rows that share one Philox block of signs) by COLUMNS columns, and walks down them 8 rows at a time
(the rows that share one block of rounding bits). How it draws:

    SIGNS     one move of one or two terms of signs: their words are drawn once for all 128 rows
    NORMALS   one move of one term of normals, nothing else drawn: each block gives four rows
    ANY       any moves, signs and normals: one draw a column of 8 rows for signs, one an element for normals
    FLAT      for few columns: 1024 consecutive elements, one draw each
"""

import triton
import triton.language as tl

from .philox import half_word, normal, normal_pair, philox, pick, sign_bit
from .storage import BFLOAT16, FLOAT16, FLOAT64, NEAREST, RESIDUAL16, load, round_value, store

SIGNS, NORMALS, ANY, FLAT = (tl.constexpr(n) for n in range(4))
ROUNDING_TAG = tl.constexpr(2 << 12)  # domain 2, index 0
FLAT_ELEMENTS = tl.constexpr(1024)


@triton.jit
def _factor(address, KIND: tl.constexpr):
    """A scalar in the accumulator's type."""
    value = tl.load(address)
    return value if KIND == FLOAT64 else value.to(tl.float32)


@triton.jit
def _term_words(term, block, stream_low, stream_high):
    """128 bits a block for one term of the table."""
    seed, step, tag = tl.load(term + 1), tl.load(term + 2), tl.load(term + 3)
    return philox(block, tag, stream_low, stream_high, seed, step)


@triton.jit
def _add_signed(value, sign, factor, KIND: tl.constexpr):
    """value + factor or value - factor, by bit 31 of `sign`."""
    if KIND == FLOAT64:
        value += tl.where(sign == 0, factor, -factor)
    else:
        value += (sign ^ factor.to(tl.uint32, bitcast=True)).to(tl.float32, bitcast=True)
    return value


@triton.jit
def _rounded(
    value, seed, step, block, lane, stream_low, stream_high, KIND: tl.constexpr, ROUNDING: tl.constexpr
):  # fmt: skip
    """The value rounded to storage, with bits of its own where the rounding wants them."""
    dither = 0
    if (KIND == BFLOAT16 or KIND == FLOAT16) and (ROUNDING != NEAREST and ROUNDING != RESIDUAL16):
        tag = tl.full([], ROUNDING_TAG, tl.int64)
        dither = half_word(philox(block, tag, stream_low, stream_high, seed, step), lane)
    return round_value(value, dither, KIND, ROUNDING)


@triton.jit
def _any_moves(
    value, moves, decay_table, terms, scales, move_count, decays, row, sign_group, bits_group, column,
    total_columns, stream_low, stream_high, KIND: tl.constexpr, ROUNDING: tl.constexpr,
):  # fmt: skip
    """Every move in order on elements (row, column); the groups are row >> 7 and row >> 3, in their cheapest shapes."""
    lane = row.to(tl.int32)  # only its low bits are used
    for move in range(move_count):
        if decays != 0:
            value = value * _factor(decay_table + move, KIND)
        entry = moves + 4 * move
        for term in range(tl.load(entry), tl.load(entry + 1)):
            factor = _factor(scales + term, KIND)
            if tl.load(terms + 4 * term) == 0:
                words = _term_words(terms + 4 * term, sign_group * total_columns + column, stream_low, stream_high)
                value = _add_signed(value, sign_bit(words, lane & 127), factor, KIND)
            else:
                words = _term_words(terms + 4 * term, (row >> 2) * total_columns + column, stream_low, stream_high)
                value += normal(words, lane & 3).to(value.dtype) * factor
        value = _rounded(
            value, tl.load(entry + 2), tl.load(entry + 3), bits_group * total_columns + column, lane & 7,
            stream_low, stream_high, KIND, ROUNDING,
        )  # fmt: skip
    return value


@triton.jit
def _flat(
    source, sink, low_source, low_sink, moves, decay_table, terms, scales, move_count,
    row, rows, column, columns, total_columns, stream_low, stream_high, decays, tile,
    KIND: tl.constexpr, ROUNDING: tl.constexpr,
):  # fmt: skip
    """1024 consecutive elements."""
    offsets = tile.to(tl.int64) * FLAT_ELEMENTS + tl.arange(0, FLAT_ELEMENTS)
    mask = offsets < rows.to(tl.int64) * columns
    at = row + offsets // columns
    value = load(source, low_source, offsets, mask, KIND, ROUNDING)
    value = _any_moves(
        value, moves, decay_table, terms, scales, move_count, decays, at, at >> 7, at >> 3, column + offsets % columns,
        total_columns, stream_low, stream_high, KIND, ROUNDING,
    )  # fmt: skip
    store(value, sink, low_sink, offsets, mask, KIND, ROUNDING)


@triton.jit
def _signs(
    source, sink, low_source, low_sink, moves, decay_table, terms, scales,
    row, rows, column, columns, total_columns, stream_low, stream_high, decays, base, local,
    KIND: tl.constexpr, ROUNDING: tl.constexpr, TERMS: tl.constexpr,
):  # fmt: skip
    """One move of TERMS (1 or 2) terms of signs on rows [base, base + 128)."""
    # read before the first store: a later read could not be shared, for all the compiler knows
    factor, second_factor = _factor(scales, KIND), _factor(scales + (TERMS - 1), KIND)
    decay = tl.where(decays != 0, _factor(decay_table, KIND), 1.0)
    seed, step = tl.load(moves + 2), tl.load(moves + 3)
    block = (base >> 7) * total_columns + column + local
    words = _term_words(terms, block, stream_low, stream_high)
    if TERMS == 2:
        second = _term_words(terms + 4, block, stream_low, stream_high)
    down = tl.arange(0, 8)[:, None]
    for group in range(16):
        at = base + group * 8 + down
        offsets, mask = (at - row) * columns + local, (at >= row) & (at < row + rows) & (local < columns)
        value = load(source, low_source, offsets, mask, KIND, ROUNDING) * decay
        up = (31 - ((group & 3) * 8 + down)).to(tl.uint32)
        value = _add_signed(value, (pick(words, group >> 2) << up) & 0x80000000, factor, KIND)
        if TERMS == 2:
            value = _add_signed(value, (pick(second, group >> 2) << up) & 0x80000000, second_factor, KIND)
        eighth = ((base >> 3) + group) * total_columns + column + local
        value = _rounded(value, seed, step, eighth, down, stream_low, stream_high, KIND, ROUNDING)
        store(value, sink, low_sink, offsets, mask, KIND, ROUNDING)


@triton.jit
def _normal_row(
    source, sink, low_source, low_sink, at, row, rows, columns, local, z, factor, decay,
    KIND: tl.constexpr, ROUNDING: tl.constexpr,
):  # fmt: skip
    """One row: round(decay x + factor z)."""
    offsets, mask = (at - row) * columns + local, (at >= row) & (at < row + rows) & (local < columns)
    value = load(source, low_source, offsets, mask, KIND, ROUNDING) * decay + z * factor
    store(round_value(value, 0, KIND, ROUNDING), sink, low_sink, offsets, mask, KIND, ROUNDING)


@triton.jit
def _normals(
    source, sink, low_source, low_sink, decay_table, terms, scales,
    row, rows, column, columns, total_columns, stream_low, stream_high, decays, base, local,
    KIND: tl.constexpr, ROUNDING: tl.constexpr,
):  # fmt: skip
    """One move of one term of normals on rows [base, base + 128), four rows a block."""
    factor = _factor(scales, KIND)
    decay = tl.where(decays != 0, _factor(decay_table, KIND), 1.0)
    seed, step, tag = tl.load(terms + 1), tl.load(terms + 2), tl.load(terms + 3)
    for group in range(32):
        block = ((base >> 2) + group) * total_columns + column + local
        words = philox(block, tag, stream_low, stream_high, seed, step)
        at = base + group * 4
        for pair in tl.static_range(2):
            c, s = normal_pair(words[2 * pair], words[2 * pair + 1])
            _normal_row(
                source, sink, low_source, low_sink, at + 2 * pair, row, rows, columns, local, c, factor, decay,
                KIND, ROUNDING,
            )  # fmt: skip
            _normal_row(
                source, sink, low_source, low_sink, at + 2 * pair + 1, row, rows, columns, local, s, factor, decay,
                KIND, ROUNDING,
            )  # fmt: skip


@triton.jit
def move_tile(
    source, sink, low_source, low_sink, moves, decay_table, terms, scales, move_count,
    row, rows, column, columns, total_columns, stream_low, stream_high, decays, row_tile, column_tile,
    KIND: tl.constexpr, ROUNDING: tl.constexpr, MODE: tl.constexpr, TERMS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Tile (row_tile, column_tile) of a window [rows, columns] whose first element is (row, column) of the parameter."""
    local = column_tile * COLUMNS + tl.arange(0, COLUMNS)[None, :]  # column of the window
    base = ((row >> 7) + row_tile) << 7  # a multiple of 128: first row of the tile in the parameter
    if MODE == FLAT:
        _flat(
            source, sink, low_source, low_sink, moves, decay_table, terms, scales, move_count,
            row, rows, column, columns, total_columns, stream_low, stream_high, decays, row_tile, KIND, ROUNDING,
        )  # fmt: skip
    elif MODE == SIGNS:
        _signs(
            source, sink, low_source, low_sink, moves, decay_table, terms, scales,
            row, rows, column, columns, total_columns, stream_low, stream_high, decays, base, local,
            KIND, ROUNDING, TERMS,
        )  # fmt: skip
    elif MODE == NORMALS:
        _normals(
            source, sink, low_source, low_sink, decay_table, terms, scales,
            row, rows, column, columns, total_columns, stream_low, stream_high, decays, base, local, KIND, ROUNDING,
        )  # fmt: skip
    else:
        for group in range(16):
            at = base + group * 8 + tl.arange(0, 8)[:, None]
            offsets, mask = (at - row) * columns + local, (at >= row) & (at < row + rows) & (local < columns)
            value = load(source, low_source, offsets, mask, KIND, ROUNDING)
            value = _any_moves(
                value, moves, decay_table, terms, scales, move_count, decays, at, base >> 7, (base >> 3) + group,
                column + local, total_columns, stream_low, stream_high, KIND, ROUNDING,
            )  # fmt: skip
            store(value, sink, low_sink, offsets, mask, KIND, ROUNDING)
