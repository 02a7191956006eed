"""The kernel behind `axpby_` and `panel_pair`, and its launch: moves applied to one parameter, copies written beside it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from .launch import KINDS, NEAREST, WARPS, Arrangement, aligned, bits, on, registers
from .storage import RESIDUAL8
from .tile import walk_tile


@triton.jit(
    do_not_specialize=["moves", "points", "row", "rows", "column", "columns", "total_columns", "stream", "copy_elements",
                       "row_tiles"]
)  # fmt: skip
def walk_kernel(
    source, sink, low_source, low_sink, copies, table, values, moves, points,
    row, rows, column, columns, total_columns, stream, copy_elements, row_tiles,
    KIND: tl.constexpr, ROUNDING: tl.constexpr, DECAYS: tl.constexpr, STORE_LOW: tl.constexpr, MOVING: tl.constexpr,
    MODE: tl.constexpr, TERMS: tl.constexpr, POINTS: tl.constexpr, FORMS: tl.constexpr, COLUMNS: tl.constexpr,
    GROUP: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """One program a tile."""
    columns, copy_elements = columns.to(tl.int64), copy_elements.to(tl.int64)
    if ALIGNED:
        columns, copy_elements = tl.multiple_of(columns, 16), tl.multiple_of(copy_elements, 16)
        if ROUNDING == RESIDUAL8:  # promised 16, the compiler would draw everything again for threads of 16 low bytes
            low_source = tl.multiple_of(low_source.to(tl.int64).to(tl.pointer_type(tl.int8)), 8)
            low_sink = tl.multiple_of(low_sink.to(tl.int64).to(tl.pointer_type(tl.int8)), 8)
    place = (
        row.to(tl.int64), rows.to(tl.int64), column.to(tl.int64), columns, total_columns.to(tl.int64), stream.to(tl.int64)
    )  # fmt: skip
    program = tl.program_id(0)
    walk_tile(
        (source, sink, low_source, low_sink, copies), table, values, moves, points, place, copy_elements,
        program % row_tiles, program // row_tiles,
        KIND, ROUNDING, DECAYS, STORE_LOW, MOVING, MODE, TERMS, POINTS, FORMS, COLUMNS, GROUP,
    )  # fmt: skip


def walk(
    weight: torch.Tensor,
    residual: torch.Tensor | None,
    out: torch.Tensor | None,
    copies: torch.Tensor | None,
    table: torch.Tensor,
    values: torch.Tensor,
    plan: Sequence[int],
    window: Sequence[int],
    decays: bool,
    rounding: int,
) -> None:
    """Launch it. Everything is contiguous; the arguments are those of `axpby_` and `panel_pair`."""
    moves, points, forms, fused = plan
    kind = KINDS[weight.dtype]
    # Other roundings draw bits for eight rows at a time, half of a block; an update with copies behind it needs the registers
    tall = rounding == NEAREST and (moves == 0 or copies is None)
    arranged = Arrangement.of(plan, kind, tuple(window), tall)  # type: ignore[arg-type]
    source = bits(weight)
    sink = source if out is None else bits(out)
    shown = sink if copies is None else bits(copies)
    low = source if residual is None else residual
    with on(weight.device):
        walk_kernel[(arranged.row_tiles * arranged.column_tiles,)](
            source, sink, low, low, shown, table, values, moves, points, *window, weight.numel(), arranged.row_tiles,
            KIND=kind, ROUNDING=rounding, DECAYS=decays, STORE_LOW=out is None, MOVING=moves > 0, MODE=arranged.mode,
            TERMS=max(fused, 0), POINTS=points if fused >= 0 else 0, FORMS=forms, COLUMNS=arranged.columns,
            GROUP=arranged.group, ALIGNED=aligned(window[3], source, sink, shown, low), num_warps=WARPS,
            enable_fp_fusion=False, maxnreg=registers(arranged.mode),
        )  # fmt: skip
