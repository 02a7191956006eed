"""sweep_: `axpby_` over all parameters of a model in one launch a storage type and arrangement, from a table of pointers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from .launch import KINDS, WARPS, Arrangement, Moves, Window, aligned, on, registers
from .storage import BFLOAT16, FLOAT16, FLOAT32, RESIDUAL8
from .tile import walk_tile

_FIELDS = tl.constexpr(10)
WINDOW = 4  # column of an address table in which the windows begin


@triton.jit(do_not_specialize=["moves"])
def sweep_kernel(
    addresses, items, table, values, moves,
    KIND: tl.constexpr, ROUNDING: tl.constexpr, DECAYS: tl.constexpr, STORE_LOW: tl.constexpr, MODE: tl.constexpr,
    TERMS: tl.constexpr, FORMS: tl.constexpr, COLUMNS: tl.constexpr, GROUP: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """One program a tile; `items` [n, 3] int32 says of which parameter, `addresses` [parameters, 10] int64 where it is."""
    item = items + tl.program_id(0).to(tl.int64) * 3
    fields = addresses + tl.load(item).to(tl.int64) * _FIELDS
    if KIND == FLOAT32:
        element = tl.float32
    elif KIND == BFLOAT16 or KIND == FLOAT16:
        element = tl.int16
    else:
        element = tl.float64
    low_element = tl.int8 if ROUNDING == RESIDUAL8 else tl.int16
    source, sink = tl.load(fields).to(tl.pointer_type(element)), tl.load(fields + 1).to(tl.pointer_type(element))
    low_source = tl.load(fields + 2).to(tl.pointer_type(low_element))
    low_sink = tl.load(fields + 3).to(tl.pointer_type(low_element))
    columns = tl.load(fields + 7)
    if ALIGNED:
        source, sink, columns = tl.multiple_of(source, 16), tl.multiple_of(sink, 16), tl.multiple_of(columns, 16)
        if ROUNDING == RESIDUAL8:  # as many low bytes as weights in 16 bytes: see `walk_kernel`
            low_source, low_sink = tl.multiple_of(low_source, 8), tl.multiple_of(low_sink, 8)
        else:
            low_source, low_sink = tl.multiple_of(low_source, 16), tl.multiple_of(low_sink, 16)
    place = (
        tl.load(fields + 4), tl.load(fields + 5), tl.load(fields + 6), columns, tl.load(fields + 8), tl.load(fields + 9)
    )  # fmt: skip
    zero = tl.full([], 0, tl.int32)
    walk_tile(
        (source, sink, low_source, low_sink, sink), table, values, moves, zero, place, zero,
        tl.load(item + 1), tl.load(item + 2),
        KIND, ROUNDING, DECAYS, STORE_LOW, True, MODE, TERMS, 0, FORMS, COLUMNS, GROUP,
    )  # fmt: skip


@dataclass(frozen=True)
class Weights:
    """One parameter, or a window of it: contiguous, of a dtype in `launch.KINDS`."""

    weight: torch.Tensor
    window: Window
    decays: bool = False
    residual: torch.Tensor | None = None
    out: torch.Tensor | None = None  # takes the result instead of weight and residual

    def row(self) -> tuple[int, ...]:
        """Its row of the address table."""
        source = self.weight.data_ptr()
        low = source if self.residual is None else self.residual.data_ptr()
        return source, source if self.out is None else self.out.data_ptr(), low, low, *self.window


@torch.library.custom_op("zoft_kernels::sweep_", mutates_args=("written",))
def _sweep_(
    written: list[torch.Tensor], read: list[torch.Tensor], addresses: torch.Tensor, items: torch.Tensor,
    table: torch.Tensor, values: torch.Tensor, plan: Sequence[int], form: Sequence[int], decays: bool, stores_low: bool,
    rounding: int,
) -> None:  # fmt: skip
    kind, mode, columns, group, is_aligned = form
    moves, _, forms, fused = plan
    with on(addresses.device):
        sweep_kernel[(items.shape[0],)](
            addresses, items, table, values, moves,
            KIND=kind, ROUNDING=rounding, DECAYS=decays, STORE_LOW=stores_low, MODE=mode, TERMS=max(fused, 0),
            FORMS=forms, COLUMNS=columns, GROUP=group, ALIGNED=bool(is_aligned), num_warps=WARPS, enable_fp_fusion=False,
            maxnreg=registers(mode),
        )  # fmt: skip


@_sweep_.register_fake
def _(written, read, addresses, items, table, values, plan, form, decays, stores_low, rounding) -> None:
    return None


def _items(index: int, arranged: Arrangement) -> torch.Tensor:
    """(parameter, row tile, column tile) of every tile, row tiles fastest: int32 [tiles, 3]."""
    tile = torch.arange(arranged.row_tiles * arranged.column_tiles, dtype=torch.int32)
    return torch.stack((torch.full_like(tile, index), tile % arranged.row_tiles, tile // arranged.row_tiles), dim=1)


@dataclass(frozen=True)
class Launch:
    """One launch of a sweep. Whoever keeps it keeps its tensors where they are."""

    addresses: torch.Tensor  # [parameters, 10] int64: where each parameter is, and its window from column WINDOW on
    items: torch.Tensor  # [tiles, 3] int32
    form: tuple[int, ...]
    decays: bool
    written: list[torch.Tensor]
    read: list[torch.Tensor]

    def run(self, moves: Moves, rounding: int = 0) -> None:
        """Apply moves of the plan for which it was made."""
        stores_low = not self.read
        _sweep_(
            self.written, self.read, self.addresses, self.items, moves.table, moves.values, moves.plan, self.form,
            self.decays, stores_low, rounding,
        )  # fmt: skip


@dataclass(frozen=True)
class Table:
    """What a launch over some parameters is told of where they are; it holds none of their tensors."""

    addresses: torch.Tensor  # as `Launch.addresses`
    items: torch.Tensor  # as `Launch.items`
    form: tuple[int, ...]
    decays: bool
    members: tuple[int, ...]  # which of the parameters these are

    def launch(self, all_weights: Sequence[Weights]) -> Launch:
        """Over these of the parameters, which are where they were when the table was made."""
        read, written = [], []
        for weights in (all_weights[member] for member in self.members):
            parts = [weights.weight] if weights.residual is None else [weights.weight, weights.residual]
            read += [] if weights.out is None else parts
            written += parts if weights.out is None else [weights.out]
        return Launch(self.addresses, self.items, self.form, self.decays, written, read)


def alike(all_weights: Sequence[Weights], moves: Moves) -> tuple[object, ...]:
    """Whatever has the same key has the same `tables`: those of another step, say, while no tensor moves."""
    places = tuple((w.weight.dtype, w.decays, w.out is None, *w.row()) for w in all_weights)
    return moves.plan[3] < 0, moves.decaying, places


def tables(all_weights: Sequence[Weights], moves: Moves) -> list[Table]:
    """Of moves like these over every parameter: one for each storage type and arrangement among them.

    Made on the host, tile by tile, and brought to the device: many times the work of the launches themselves.
    """
    groups: dict[tuple[tuple[int, ...], bool, bool], list[tuple[int, Arrangement]]] = defaultdict(list)
    for number, weights in enumerate(all_weights):
        kind, columns = KINDS[weights.weight.dtype], weights.window[3]
        arranged = Arrangement.of(moves.plan, kind, weights.window)
        sink = weights.weight if weights.out is None else weights.out
        tensors = [weights.weight, sink, *([] if weights.residual is None else [weights.residual])]
        form = (kind, arranged.mode, arranged.columns, arranged.group, int(aligned(columns, *tensors)))
        groups[form, weights.decays and moves.decaying, weights.out is None].append((number, arranged))
    found = []
    for (form, decays, _), members in groups.items():
        device = all_weights[members[0][0]].weight.device
        rows = [all_weights[number].row() for number, _ in members]
        addresses = torch.tensor(rows, dtype=torch.int64).to(device)
        items = torch.cat([_items(n, arranged) for n, (_, arranged) in enumerate(members)]).to(device)
        found.append(Table(addresses, items, form, decays, tuple(number for number, _ in members)))
    return found


def launches(all_weights: Sequence[Weights], moves: Moves) -> list[Launch]:
    """Of moves like these over every parameter, with tables of their own."""
    return [table.launch(all_weights) for table in tables(all_weights, moves)]


def sweep_(
    all_weights: Sequence[Weights], moves: Moves, rounding: int = 0, made: Sequence[Table] | None = None
) -> None:
    """Apply the moves to every parameter: one launch for each storage type and arrangement among them.

    Args:
        made: the `tables` of parameters and moves that are `alike`.
    """
    for table in tables(all_weights, moves) if made is None else made:
        table.launch(all_weights).run(moves, rounding)
