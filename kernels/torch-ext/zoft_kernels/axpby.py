"""axpby_: x <- round(a x + sum_j s_j z_j) for one parameter, all moves in one pass over memory."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .launch import KINDS, WARPS, Moves, Weights, arrangement, tile_columns, tiles
from .tile import move_tile


@triton.jit(do_not_specialize=["move_count", "stream_low", "stream_high", "row_tiles"])
def axpby_kernel(
    source, sink, low_source, low_sink, moves, decay_table, terms, scales, move_count,
    row: tl.int64, rows: tl.int64, column: tl.int64, columns: tl.int64, total_columns: tl.int64,
    stream_low: tl.int64, stream_high: tl.int64, decays, row_tiles,
    KIND: tl.constexpr, ROUNDING: tl.constexpr, MODE: tl.constexpr, TERMS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One program a tile."""
    program = tl.program_id(0)
    move_tile(
        source, sink, low_source, low_sink, moves, decay_table, terms, scales, move_count,
        row, rows, column, columns, total_columns, stream_low, stream_high, decays,
        program % row_tiles, program // row_tiles,
        KIND, ROUNDING, MODE, TERMS, COLUMNS,
    )  # fmt: skip


def axpby_(weights: Weights, moves: Moves, rounding: int = 0) -> None:
    """Apply the moves in order to one parameter, rounding to storage after each.

    Args:
        weights: what is read and written.
        moves: tables on the same device.
        rounding: 0 nearest, 1 stochastic, 2 and 3 with 8 or 16 residual bits.
    """
    kind = KINDS[weights.weight.dtype]
    row, rows, column, columns, total_columns = weights.window
    mode = arrangement(moves, kind, rounding, columns)
    width = tile_columns(kind, columns)
    row_tiles, column_tiles = tiles(weights, mode, width)
    with torch.device(weights.weight.device):
        axpby_kernel[(row_tiles * column_tiles,)](
            *weights.pointers(), moves.moves, moves.decays, moves.terms, moves.scales, moves.moves.shape[0],
            row, rows, column, columns, total_columns, weights.stream & 0xFFFFFFFF, weights.stream >> 32,
            int(weights.decays), row_tiles,
            KIND=kind, ROUNDING=rounding, MODE=mode, TERMS=moves.fused_terms, COLUMNS=width,
            num_warps=WARPS, enable_fp_fusion=False,
        )  # fmt: skip
