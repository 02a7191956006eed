"""dot: <x, z> for one parameter, as partial sums whose order is fixed: down each column of each block of 128 rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from .launch import KINDS, REGISTERS, WARPS, Moves, Window, aligned, bits, on, tile_columns
from .random import normal_pair, pick
from .storage import FLOAT64, load
from .tile import ONLY_SIGNS, draw_term


@triton.jit
def _signed(value, sign, KIND: tl.constexpr):
    """value or -value, by bit 31 of `sign`."""
    if KIND == FLOAT64:
        value = tl.where(sign == 0, value, -value)
    else:
        value = (value.to(tl.uint32, bitcast=True) ^ sign).to(tl.float32, bitcast=True)
    return value


@triton.jit(
    do_not_specialize=["row", "rows", "column", "columns", "total_columns", "stream", "row_tiles"]
)  # fmt: skip
def dot_kernel(
    source, low_source, partials, table, row, rows, column, columns, total_columns, stream, row_tiles,
    KIND: tl.constexpr, ROUNDING: tl.constexpr, FORMS: tl.constexpr, COLUMNS: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """One program a block of 128 rows and COLUMNS columns; `partials` [block rows, columns]."""
    program = tl.program_id(0)
    row, rows, columns, stream = row.to(tl.int64), rows.to(tl.int64), columns.to(tl.int64), stream.to(tl.int64)
    if ALIGNED:
        columns = tl.multiple_of(columns, 16)
    row_tile = program % row_tiles
    base = ((row >> 7) + row_tile) << 7
    local = (program // row_tiles).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    inside = local < columns
    term = table + 3  # after the point's row
    at_column = column + local
    words = draw_term(term, (base >> 7) * total_columns + at_column, stream)
    total = tl.zeros([COLUMNS], tl.float64 if KIND == FLOAT64 else tl.float32)
    first, last = tl.maximum(row - base, 0).to(tl.int32), tl.minimum(row + rows - base, 128).to(tl.int32)
    corner = (base - row) * columns + local  # offset of the block's first row
    zero = tl.full([], 0, tl.int32)  # makes tensors of numbers in the interpreter, whose ranges count in int
    for group in range(first // 8, (last + 7) // 8):  # eights of rows that the window has
        top = zero + 8 * group
        shift = corner + top * columns
        if FORMS == ONLY_SIGNS:
            word = pick(words, top >> 5) >> (top & 31).to(tl.uint32)  # the eight rows' signs are its lowest bits
        else:
            words = draw_term(term, ((base + top) >> 3) * total_columns + at_column, stream)
        for pair in tl.static_range(4):
            if FORMS != ONLY_SIGNS:
                normals = normal_pair(words[pair])
            for half in tl.static_range(2):
                down = 2 * pair + half
                mask = inside & (top + down >= first) & (top + down < last)
                value = load(source, low_source, shift + down * columns, mask, KIND, ROUNDING)
                if FORMS == ONLY_SIGNS:
                    value = _signed(value, (word << (31 - down)) & 0x80000000, KIND)
                else:
                    value = value * normals[half].to(value.dtype)
                total += tl.where(mask, value, 0.0)
    tl.store(partials + row_tile * columns + local, total, mask=inside)


@torch.library.custom_op("zoft_kernels::dot", mutates_args=())
def _dot(
    weight: torch.Tensor, residual: torch.Tensor | None, table: torch.Tensor, plan: Sequence[int],
    window: Sequence[int], rounding: int,
) -> torch.Tensor:  # fmt: skip
    row, rows, _, columns, _, _ = window
    row_tiles = (row + rows - 1) // 128 - row // 128 + 1
    partials = _empty(weight, row_tiles * columns)
    source, width = bits(weight), tile_columns(KINDS[weight.dtype], columns)
    low = source if residual is None else residual
    with on(weight.device):
        dot_kernel[(row_tiles * -(-columns // width),)](
            source, low, partials, table, *window, row_tiles,
            KIND=KINDS[weight.dtype], ROUNDING=rounding, FORMS=plan[2], COLUMNS=width,
            ALIGNED=aligned(columns, source, low, partials), num_warps=WARPS, enable_fp_fusion=False, maxnreg=REGISTERS,
        )  # fmt: skip
    return partials


def _empty(weight: torch.Tensor, count: int) -> torch.Tensor:
    return weight.new_empty(count, dtype=torch.float64 if weight.dtype is torch.float64 else torch.float32)


@_dot.register_fake
def _(weight, residual, table, plan, window, rounding) -> torch.Tensor:
    row, rows, _, columns, _, _ = window
    return _empty(weight, ((row + rows - 1) // 128 - row // 128 + 1) * columns)


def dot(
    weight: torch.Tensor, moves: Moves, window: Window, *, residual: torch.Tensor | None = None, rounding: int = 0
) -> torch.Tensor:
    """The partial sums of <x, z>, [block rows * columns], float32 (float64 for float64 weights); their sum is the product.

    Args:
        weight: contiguous, not empty.
        moves: one point of one term, whose direction is z; its scale is not used.
        window: the weight's place in the whole parameter.
        residual: low bits that belong to the weight.
        rounding: 2 or 3: which low bits `residual` holds.
    """
    return _dot(weight, residual, moves.table, moves.plan, list(window), rounding)
