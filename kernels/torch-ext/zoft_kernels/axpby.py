"""axpby_: x <- round(a x + sum_j s_j z_j) for one parameter, all moves in one pass over memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .launch import Moves, Window, untraced, written
from .walk import walk


@torch.library.custom_op("zoft_kernels::axpby_", mutates_args=("weight", "residual"))
def _axpby_(
    weight: torch.Tensor, residual: torch.Tensor | None, table: torch.Tensor, values: torch.Tensor,
    plan: Sequence[int], window: Sequence[int], decays: bool, rounding: int,
) -> None:  # fmt: skip
    walk(weight, residual, None, None, table, values, plan, window, decays, rounding)


@torch.library.custom_op("zoft_kernels::axpby_out", mutates_args=("out",))
def _axpby_out(
    weight: torch.Tensor, residual: torch.Tensor | None, out: torch.Tensor, table: torch.Tensor, values: torch.Tensor,
    plan: Sequence[int], window: Sequence[int], decays: bool, rounding: int,
) -> None:  # fmt: skip
    walk(weight, residual, out, None, table, values, plan, window, decays, rounding)


@_axpby_.register_fake
def _(weight, residual, table, values, plan, window, decays, rounding) -> None:
    return None


@_axpby_out.register_fake
def _(weight, residual, out, table, values, plan, window, decays, rounding) -> None:
    return None


def axpby_(
    weight: torch.Tensor,
    moves: Moves,
    window: Window,
    *,
    residual: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    decays: bool = False,
    rounding: int = 0,
) -> None:
    """Apply the moves in order to one parameter, rounding to storage after each.

    Args:
        weight: contiguous, of a dtype in `launch.KINDS`; written unless `out` is given.
        moves: tables on the same device.
        window: the weight's place in the whole parameter.
        residual: int8 or int16 for the roundings that keep low bits; written unless `out` is given.
        out: of the weight's shape and dtype: takes the result instead.
        decays: do the moves' decays apply.
        rounding: 0 nearest, 1 stochastic, 2 and 3 with 8 or 16 residual bits.
    """
    tables = (moves.table, moves.values, moves.plan, list(window), decays and moves.decaying, rounding)
    if untraced(weight, residual, out):
        walk(weight, residual, out, None, *tables)
        written(*((weight, residual) if out is None else (out,)))
    elif out is None:
        _axpby_(weight, residual, *tables)
    else:
        _axpby_out(weight, residual, out, *tables)
