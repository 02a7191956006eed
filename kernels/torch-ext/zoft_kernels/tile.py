"""Moves, and copies at displaced points, on one tile of one parameter: what `axpby_`, `sweep_` and `panel_pair` share.

A program owns 128 rows (the rows that share one Philox block of signs) by COLUMNS columns and walks down them GROUP rows at a
time. How it draws:

    SIGNS   one move of one or two terms of signs, copies along one direction of signs: drawn once for all 128 rows
    QUADS   anything: rows in fours, half of those that share a Philox block of normals; signs are drawn again for each group
    FLAT    the same for few columns: QUAD_ELEMENTS consecutive (four rows, column) pairs

Tables: row m < moves is (key of the rounding bits, first term, end of terms) with the decay as its value; then the points in
the same form; a term is (key, tag, 0 signs or 1 normals) with its scale as its value.
"""

import triton
import triton.language as tl

from .random import dither_bits, draw, normal_pair, pick, sign_bit
from .storage import FLOAT64, NEAREST, dithered, load, round_value, shown, store

SIGNS, QUADS, FLAT = (tl.constexpr(n) for n in range(3))
ONLY_SIGNS, ONLY_NORMALS = tl.constexpr(1), tl.constexpr(2)
ROUNDING_TAG = tl.constexpr(2 << 12)  # domain 2, index 0
QUAD_ELEMENTS = tl.constexpr(256)


@triton.jit
def factor_of(address, KIND: tl.constexpr):
    """A scalar in the accumulator's type."""
    value = tl.load(address)
    return value if KIND == FLOAT64 else value.to(tl.float32)


@triton.jit
def add_signed(value, sign, factor, KIND: tl.constexpr):
    """value + factor or value - factor, by bit 31 of `sign`."""
    if KIND == FLOAT64:
        value += tl.where(sign == 0, factor, -factor)
    else:
        value += (sign ^ factor.to(tl.uint32, bitcast=True)).to(tl.float32, bitcast=True)
    return value


@triton.jit
def draw_term(term, block, stream):
    """128 bits a block for the term at this address."""
    return draw(block, tl.load(term + 1), stream, tl.load(term))


@triton.jit
def _rounding_words(block, stream, key):
    return draw(block, tl.full([], ROUNDING_TAG, tl.int64), stream, key)


@triton.jit
def _group_signs(words, top, down, GROUP: tl.constexpr):
    """The signs of rows top + down of a tile; a group within one word is shifted as a whole, then by constants."""
    if GROUP <= 32:
        word = pick(words, top >> 5) >> (top & 31).to(tl.uint32)
        signs = (word << (31 - down).to(tl.uint32)) & 0x80000000
    else:
        lane = top + down
        signs = sign_bit(words, lane >> 5, lane)
    return signs


@triton.jit
def _sign_rows(
    memory, corner, block, first, last, inside, drawn, factors, key, place, copy_elements, base,
    KIND: tl.constexpr, ROUNDING: tl.constexpr, DECAYS: tl.constexpr, STORE_LOW: tl.constexpr, TERMS: tl.constexpr,
    POINTS: tl.constexpr, GROUP: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """All rows of a tile, GROUP at a time; WHOLE: every row belongs to the window, so that only columns need a mask."""
    source, sink, low_source, low_sink, copies = memory
    words, second, shared = drawn
    decay, factor, second_factor, at_points = factors
    columns, stream = place[3], place[5]
    down = tl.arange(0, GROUP)[:, None]
    below = down * columns
    for group in range(128 // GROUP):
        top = group * GROUP
        lane = top + down
        mask = inside & (down >= 0) if WHOLE else inside & (lane >= first) & (lane < last)
        shift = corner + top * columns  # 64-bit sums once for all rows of the group
        value = load(
            source + shift, low_source + shift, below, mask, KIND, ROUNDING if TERMS > 0 else NEAREST
        )  # fmt: skip
        if TERMS > 0:
            if DECAYS:
                value = value * decay
            value = add_signed(value, _group_signs(words, top, down, GROUP), factor, KIND)
            if TERMS == 2:
                value = add_signed(value, _group_signs(second, top, down, GROUP), second_factor, KIND)
            dither = 0
            if dithered(KIND, ROUNDING):
                sixteenth = (base >> 4) + group // 2 if GROUP == 8 else (base + lane) >> 4
                dither = dither_bits(_rounding_words(sixteenth * place[4] + block, stream, key), lane & 15)
            value = round_value(value, dither, KIND, ROUNDING)
            store(value, sink + shift, low_sink + shift, below, mask, KIND, ROUNDING, STORE_LOW)
            value = shown(value, KIND, ROUNDING)
        signs = _group_signs(shared, top, down, GROUP)
        for point in tl.static_range(POINTS):
            copy = add_signed(value, signs, at_points[point], KIND)
            copy = round_value(copy, 0, KIND, NEAREST)
            target = copies + point * copy_elements + shift
            store(copy, target, target, below, mask, KIND, NEAREST, False)


@triton.jit
def _sign_tile(
    memory, table, values, moves, points, place, copy_elements, base, local,
    KIND: tl.constexpr, ROUNDING: tl.constexpr, DECAYS: tl.constexpr, STORE_LOW: tl.constexpr, TERMS: tl.constexpr,
    POINTS: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Rows [base, base + 128): one move of TERMS terms (0: no move), then POINTS copies along the next term's direction."""
    row, rows, column, columns, total_columns, stream = place
    term = table + 3 * (moves + points)
    scale = values + moves + points
    block = (base >> 7) * total_columns + column + local
    # read before the first store: a later read could not be shared, for all the compiler knows
    at_points = ()
    for point in tl.static_range(POINTS):
        at_points += (factor_of(scale + (TERMS + point), KIND),)
    factors = (
        factor_of(values, KIND), factor_of(scale, KIND), factor_of(scale + (1 if TERMS == 2 else 0), KIND), at_points
    )  # fmt: skip
    key = tl.load(table)
    words = draw_term(term, block, stream)
    second = draw_term(term + 3, block, stream) if TERMS == 2 else words
    shared = draw_term(term + 3 * TERMS, block, stream) if POINTS > 0 and TERMS > 0 else words
    first, last = tl.maximum(row - base, 0).to(tl.int32), tl.minimum(row + rows - base, 128).to(tl.int32)
    corner = (base - row) * columns + local  # offset of the tile's first row
    if last - first == 128:
        _sign_rows(
            memory, corner, column + local, first, last, local < columns, (words, second, shared), factors, key, place,
            copy_elements, base, KIND, ROUNDING, DECAYS, STORE_LOW, TERMS, POINTS, GROUP, True,
        )  # fmt: skip
    else:
        _sign_rows(
            memory, corner, column + local, first, last, local < columns, (words, second, shared), factors, key, place,
            copy_elements, base, KIND, ROUNDING, DECAYS, STORE_LOW, TERMS, POINTS, GROUP, False,
        )  # fmt: skip


@triton.jit
def _add_term(quad, term, factor, sign_block, eight_block, lane, stream, KIND: tl.constexpr, FORMS: tl.constexpr):
    """One term added to four rows, whose first is `lane` modulo 128."""
    v0, v1, v2, v3 = quad
    is_normal = FORMS == ONLY_NORMALS
    if FORMS != ONLY_SIGNS and FORMS != ONLY_NORMALS:
        is_normal = tl.load(term + 2) == 1
    if is_normal:
        words = draw_term(term, eight_block, stream)
        upper = (lane & 4) == 0
        first, second = normal_pair(tl.where(upper, words[0], words[2]))
        v0 += first.to(v0.dtype) * factor
        v1 += second.to(v1.dtype) * factor
        third, fourth = normal_pair(tl.where(upper, words[1], words[3]))
        v2 += third.to(v2.dtype) * factor
        v3 += fourth.to(v3.dtype) * factor
    else:  # these words have another shape and therefore another name
        signs = draw_term(term, sign_block, stream)
        which = lane >> 5
        v0 = add_signed(v0, sign_bit(signs, which, lane), factor, KIND)
        v1 = add_signed(v1, sign_bit(signs, which, lane + 1), factor, KIND)
        v2 = add_signed(v2, sign_bit(signs, which, lane + 2), factor, KIND)
        v3 = add_signed(v3, sign_bit(signs, which, lane + 3), factor, KIND)
    return v0, v1, v2, v3


@triton.jit
def _add_terms(
    quad, entry, table, values, sign_block, eight_block, lane, stream, KIND: tl.constexpr, FORMS: tl.constexpr
):  # fmt: skip
    """The terms of the move or point at `entry`, in order."""
    v0, v1, v2, v3 = quad
    for term in range(tl.load(entry + 1), tl.load(entry + 2)):
        factor = factor_of(values + term, KIND)
        v0, v1, v2, v3 = _add_term(
            (v0, v1, v2, v3), table + 3 * term, factor, sign_block, eight_block, lane, stream, KIND, FORMS
        )
    return v0, v1, v2, v3


@triton.jit
def _round_quad(quad, key, bits_block, lane, stream, KIND: tl.constexpr, ROUNDING: tl.constexpr):
    v0, v1, v2, v3 = quad
    if dithered(KIND, ROUNDING):
        words = _rounding_words(bits_block, stream, key)
        v0 = round_value(v0, dither_bits(words, lane & 15), KIND, ROUNDING)
        v1 = round_value(v1, dither_bits(words, (lane + 1) & 15), KIND, ROUNDING)
        v2 = round_value(v2, dither_bits(words, (lane + 2) & 15), KIND, ROUNDING)
        v3 = round_value(v3, dither_bits(words, (lane + 3) & 15), KIND, ROUNDING)
    else:
        v0, v1 = round_value(v0, 0, KIND, ROUNDING), round_value(v1, 0, KIND, ROUNDING)
        v2, v3 = round_value(v2, 0, KIND, ROUNDING), round_value(v3, 0, KIND, ROUNDING)
    return v0, v1, v2, v3


@triton.jit
def _quad_tile(
    memory, table, values, moves, points, place, copy_elements, quad_row, sign_row, eight_row, local,
    KIND: tl.constexpr, ROUNDING: tl.constexpr, DECAYS: tl.constexpr, STORE_LOW: tl.constexpr, MOVING: tl.constexpr,
    FORMS: tl.constexpr,
):  # fmt: skip
    """Rows quad_row .. quad_row + 3; `sign_row` and `eight_row` are quad_row >> 7 and >> 3 in their cheapest shapes."""
    source, sink, low_source, low_sink, copies = memory
    row, rows, column, columns, total_columns, stream = place
    lane = (quad_row & 127).to(tl.int32)
    sign_block = sign_row * total_columns + column + local
    eight_block = eight_row * total_columns + column + local
    bits_block = (eight_row >> 1) * total_columns + column + local
    inside = (local >= 0) & (local < columns)
    offsets, mask = (), ()
    for i in tl.static_range(4):
        at = quad_row + i
        offsets += ((at - row) * columns + local,)
        mask += ((at >= row) & (at < row + rows) & inside,)
    READING: tl.constexpr = ROUNDING if MOVING else NEAREST
    quad = (
        load(source, low_source, offsets[0], mask[0], KIND, READING),
        load(source, low_source, offsets[1], mask[1], KIND, READING),
        load(source, low_source, offsets[2], mask[2], KIND, READING),
        load(source, low_source, offsets[3], mask[3], KIND, READING),
    )
    v0, v1, v2, v3 = quad
    if MOVING:
        for move in range(moves):
            if DECAYS:
                decay = factor_of(values + move, KIND)
                v0, v1, v2, v3 = v0 * decay, v1 * decay, v2 * decay, v3 * decay
            entry = table + 3 * move
            v0, v1, v2, v3 = _add_terms(
                (v0, v1, v2, v3), entry, table, values, sign_block, eight_block, lane, stream, KIND, FORMS
            )
            v0, v1, v2, v3 = _round_quad((v0, v1, v2, v3), tl.load(entry), bits_block, lane, stream, KIND, ROUNDING)
        store(v0, sink, low_sink, offsets[0], mask[0], KIND, ROUNDING, STORE_LOW)
        store(v1, sink, low_sink, offsets[1], mask[1], KIND, ROUNDING, STORE_LOW)
        store(v2, sink, low_sink, offsets[2], mask[2], KIND, ROUNDING, STORE_LOW)
        store(v3, sink, low_sink, offsets[3], mask[3], KIND, ROUNDING, STORE_LOW)
        v0, v1, v2, v3 = (
            shown(v0, KIND, ROUNDING), shown(v1, KIND, ROUNDING), shown(v2, KIND, ROUNDING), shown(v3, KIND, ROUNDING)
        )  # fmt: skip
    for point in range(points):
        c0, c1, c2, c3 = _add_terms(
            (v0, v1, v2, v3),
            table + 3 * (moves + point),
            table,
            values,
            sign_block,
            eight_block,
            lane,
            stream,
            KIND,
            FORMS,
        )
        c0, c1, c2, c3 = _round_quad((c0, c1, c2, c3), 0, bits_block, lane, stream, KIND, NEAREST)
        target = copies + point * copy_elements
        store(c0, target, copies, offsets[0], mask[0], KIND, NEAREST, False)
        store(c1, target, copies, offsets[1], mask[1], KIND, NEAREST, False)
        store(c2, target, copies, offsets[2], mask[2], KIND, NEAREST, False)
        store(c3, target, copies, offsets[3], mask[3], KIND, NEAREST, False)


@triton.jit
def walk_tile(
    memory, table, values, moves, points, place, copy_elements, row_tile, column_tile,
    KIND: tl.constexpr, ROUNDING: tl.constexpr, DECAYS: tl.constexpr, STORE_LOW: tl.constexpr, MOVING: tl.constexpr,
    MODE: tl.constexpr, TERMS: tl.constexpr, POINTS: tl.constexpr, FORMS: tl.constexpr, COLUMNS: tl.constexpr,
    GROUP: tl.constexpr,
):  # fmt: skip
    """Tile (row_tile, column_tile) of a window: moves applied and stored, copies at the points written.

    memory: source, sink, residuals read, residuals written, copies (points `copy_elements` apart).
    place: first row, rows, first column, columns, columns of the whole parameter, stream; int64.
    """
    row, columns = place[0], place[3]
    if MODE == FLAT:
        quad = row_tile.to(tl.int64) * QUAD_ELEMENTS + tl.arange(0, QUAD_ELEMENTS)
        quad_row = ((row >> 2) + quad // columns) << 2
        _quad_tile(
            memory, table, values, moves, points, place, copy_elements,
            quad_row, quad_row >> 7, quad_row >> 3, quad % columns,
            KIND, ROUNDING, DECAYS, STORE_LOW, MOVING, FORMS,
        )  # fmt: skip
    else:
        local = column_tile.to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)[None, :]  # column of the window
        base = ((row >> 7) + row_tile) << 7  # first row of the tile in the parameter
        if MODE == SIGNS:
            _sign_tile(
                memory, table, values, moves, points, place, copy_elements, base, local,
                KIND, ROUNDING, DECAYS, STORE_LOW, TERMS, POINTS, GROUP,
            )  # fmt: skip
        else:
            for group in range(128 // GROUP):
                first = base + group * GROUP
                quad_row = first + 4 * tl.arange(0, GROUP // 4)[:, None]
                eight_row = first >> 3 if GROUP <= 8 else quad_row >> 3
                _quad_tile(
                    memory, table, values, moves, points, place, copy_elements, quad_row, base >> 7, eight_row, local,
                    KIND, ROUNDING, DECAYS, STORE_LOW, MOVING, FORMS,
                )  # fmt: skip
