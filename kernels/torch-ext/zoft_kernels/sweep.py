"""sweep_: `axpby_` over all parameters of a model in one launch a storage type, from a table of pointers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from .launch import KINDS, WARPS, Moves, Weights, arrangement, tile_columns, tiles
from .storage import BFLOAT16, FLOAT16, FLOAT32, RESIDUAL8
from .tile import move_tile

_FIELDS = tl.constexpr(12)


@triton.jit(do_not_specialize=["move_count"])
def sweep_kernel(
    table, items, moves, decay_table, terms, scales, move_count,
    KIND: tl.constexpr, ROUNDING: tl.constexpr, MODE: tl.constexpr, TERMS: tl.constexpr, COLUMNS: tl.constexpr,
    ALIGNED: tl.constexpr,
):  # fmt: skip
    """One program a tile; `items` [n, 3] int32 says of which parameter, `table` [parameters, 12] int64 where that is."""
    item = items + tl.program_id(0).to(tl.int64) * 3
    fields = table + tl.load(item).to(tl.int64) * _FIELDS
    if KIND == FLOAT32:
        element = tl.float32
    elif KIND == BFLOAT16 or KIND == FLOAT16:
        element = tl.int16
    else:
        element = tl.float64
    low_element = tl.int8 if ROUNDING == RESIDUAL8 else tl.int16
    source = tl.load(fields).to(tl.pointer_type(element))
    sink = tl.load(fields + 1).to(tl.pointer_type(element))
    low_source = tl.load(fields + 2).to(tl.pointer_type(low_element))
    low_sink = tl.load(fields + 3).to(tl.pointer_type(low_element))
    columns = tl.load(fields + 7)
    if ALIGNED:
        source, sink = tl.multiple_of(source, 16), tl.multiple_of(sink, 16)
        columns = tl.multiple_of(columns, 8)
    move_tile(
        source, sink, low_source, low_sink, moves, decay_table, terms, scales, move_count,
        tl.load(fields + 4), tl.load(fields + 5), tl.load(fields + 6), columns, tl.load(fields + 8),
        tl.load(fields + 9), tl.load(fields + 10), tl.load(fields + 11), tl.load(item + 1), tl.load(item + 2),
        KIND, ROUNDING, MODE, TERMS, COLUMNS,
    )  # fmt: skip


def _row(weights: Weights) -> tuple[int, ...]:
    """The table row of a parameter."""
    addresses = tuple(tensor.data_ptr() for tensor in weights.pointers())
    stream = weights.stream
    return (*addresses, *weights.window, stream & 0xFFFFFFFF, stream >> 32, int(weights.decays))


def _items(index: int, row_tiles: int, column_tiles: int) -> torch.Tensor:
    """(parameter, row tile, column tile) of every tile, row tiles fastest: int32 [tiles, 3]."""
    tile = torch.arange(row_tiles * column_tiles, dtype=torch.int32)
    return torch.stack((torch.full_like(tile, index), tile % row_tiles, tile // row_tiles), dim=1)


def sweep_(all_weights: Sequence[Weights], moves: Moves, rounding: int = 0) -> None:
    """Apply the moves to every parameter: one launch for each storage type and arrangement among them."""
    groups: dict[tuple[int, int, int, bool], list[Weights]] = defaultdict(list)
    for weights in all_weights:
        kind, columns = KINDS[weights.weight.dtype], weights.window[3]
        mode = arrangement(moves, kind, rounding, columns)
        aligned = columns % 8 == 0 and all(pointer % 16 == 0 for pointer in _row(weights)[:2])
        groups[kind, mode, tile_columns(kind, columns), aligned].append(weights)
    for (kind, mode, width, aligned), members in groups.items():
        device = members[0].weight.device
        table = torch.tensor([_row(weights) for weights in members], dtype=torch.int64, device=device)
        items = torch.cat([_items(n, *tiles(weights, mode, width)) for n, weights in enumerate(members)]).to(device)
        sweep_kernel[(items.shape[0],)](
            table, items, moves.moves, moves.decays, moves.terms, moves.scales, moves.moves.shape[0],
            KIND=kind, ROUNDING=rounding, MODE=mode, TERMS=moves.fused_terms, COLUMNS=width, ALIGNED=aligned,
            num_warps=WARPS, enable_fp_fusion=False,
        )  # fmt: skip
