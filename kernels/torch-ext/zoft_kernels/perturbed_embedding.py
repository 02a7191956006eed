"""perturbed_embedding: rows of w + s z for a population, displacing only the rows that are looked up."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from .launch import KINDS, REGISTERS, Moves, Window, aligned, bits, on
from .random import normal_pair, pick, sign_bit
from .storage import NEAREST, load, round_value, store
from .tile import ONLY_NORMALS, ONLY_SIGNS, add_signed, draw_term, factor_of

TOKENS, COLUMNS = 8, 128


@triton.jit(do_not_specialize=["tokens", "token_tiles", "row", "column", "columns", "total_columns", "stream"])
def embedding_kernel(
    source, ids, out, table, values, tokens, token_tiles, row, column, columns, total_columns, stream,
    KIND: tl.constexpr, FORMS: tl.constexpr, TOKENS: tl.constexpr, COLUMNS: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """One program TOKENS rows of one member of the population by COLUMNS columns; `out` [members, tokens, columns]."""
    program = tl.program_id(0)
    columns, stream = columns.to(tl.int64), stream.to(tl.int64)
    if ALIGNED:
        columns = tl.multiple_of(columns, 16)
    column_tiles = ((columns + COLUMNS - 1) // COLUMNS).to(tl.int32)
    local = (program % column_tiles).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    point = program // column_tiles // token_tiles
    token = (program // column_tiles % token_tiles) * TOKENS + tl.arange(0, TOKENS)[:, None]
    here = point.to(tl.int64) * tokens + token
    id = tl.load(ids + here, mask=token < tokens, other=0)
    mask = (token < tokens) & (local < columns)
    at = row + id
    lane = (at & 127).to(tl.int32)
    value = load(source, source, id * columns + local, mask, KIND, NEAREST)
    entry = table + 3 * point
    for term in range(tl.load(entry + 1), tl.load(entry + 2)):
        address, factor = table + 3 * term, factor_of(values + term, KIND)
        is_normal = FORMS == ONLY_NORMALS
        if FORMS != ONLY_SIGNS and FORMS != ONLY_NORMALS:
            is_normal = tl.load(address + 2) == 1
        if is_normal:
            words = draw_term(address, (at >> 3) * total_columns + column + local, stream)
            even, odd = normal_pair(pick(words, (lane & 7) >> 1))
            value += tl.where((lane & 1) == 0, even, odd).to(value.dtype) * factor
        else:
            signs = draw_term(address, (at >> 7) * total_columns + column + local, stream)
            value = add_signed(value, sign_bit(signs, lane >> 5, lane), factor, KIND)
    store(round_value(value, 0, KIND, NEAREST), out, out, here * columns + local, mask, KIND, NEAREST, False)


@torch.library.custom_op("zoft_kernels::perturbed_embedding", mutates_args=())
def _perturbed_embedding(
    weight: torch.Tensor, ids: torch.Tensor, table: torch.Tensor, values: torch.Tensor, plan: Sequence[int],
    window: Sequence[int],
) -> torch.Tensor:  # fmt: skip
    row, _, column, columns, total_columns, stream = window
    out = weight.new_empty(*ids.shape, columns)
    if out.numel() == 0:
        return out
    tokens = ids.numel() // plan[1]
    token_tiles = -(-tokens // TOKENS)
    source, sink = bits(weight), bits(out)
    with on(weight.device):
        embedding_kernel[(plan[1] * token_tiles * -(-columns // COLUMNS),)](
            source, ids, sink, table, values, tokens, token_tiles, row, column, columns, total_columns, stream,
            KIND=KINDS[weight.dtype], FORMS=plan[2], TOKENS=TOKENS, COLUMNS=COLUMNS,
            ALIGNED=aligned(columns, source, sink), enable_fp_fusion=False, maxnreg=REGISTERS,
        )  # fmt: skip
    return out


@_perturbed_embedding.register_fake
def _(weight, ids, table, values, plan, window) -> torch.Tensor:
    return weight.new_empty(*ids.shape, window[3])


def perturbed_embedding(weight: torch.Tensor, moves: Moves, ids: torch.Tensor, window: Window) -> torch.Tensor:
    """The displaced rows, [*ids.shape, columns]: bit for bit those of the displaced weight.

    Args:
        weight: contiguous matrix.
        moves: points only.
        ids: [points, ...] int64, contiguous; an id outside the weight is undefined behaviour.
        window: the weight's place in the whole parameter.
    """
    return _perturbed_embedding(weight, ids, moves.table, moves.values, moves.plan, list(window))
