"""panel_pair: a weight is read once, updated, and written at every point of a population beside it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .launch import Moves, Window, untraced, written
from .walk import walk


@torch.library.custom_op("zoft_kernels::panel_pair", mutates_args=("copies",))
def _panel_pair(
    weight: torch.Tensor, copies: torch.Tensor, table: torch.Tensor, values: torch.Tensor,
    plan: Sequence[int], window: Sequence[int],
) -> None:  # fmt: skip
    walk(weight, None, None, copies, table, values, plan, window, False, 0)


@torch.library.custom_op("zoft_kernels::panel_pair_", mutates_args=("weight", "residual", "copies"))
def _panel_pair_(
    weight: torch.Tensor, residual: torch.Tensor | None, copies: torch.Tensor, table: torch.Tensor, values: torch.Tensor,
    plan: Sequence[int], window: Sequence[int], decays: bool, rounding: int,
) -> None:  # fmt: skip
    walk(weight, residual, None, copies, table, values, plan, window, decays, rounding)


@_panel_pair.register_fake
def _(weight, copies, table, values, plan, window) -> None:
    return None


@_panel_pair_.register_fake
def _(weight, residual, copies, table, values, plan, window, decays, rounding) -> None:
    return None


def panel_pair(
    weight: torch.Tensor,
    moves: Moves,
    copies: torch.Tensor,
    window: Window,
    *,
    residual: torch.Tensor | None = None,
    decays: bool = False,
    rounding: int = 0,
) -> None:
    """Apply the moves to the weight, if there are any, and write one copy a point, rounded to nearest.

    Args:
        weight: contiguous; written only if there are moves.
        moves: moves and points as tables on the same device.
        copies: [points, *weight.shape], contiguous, of the weight's dtype.
        window: the weight's place in the whole parameter.
        residual: low bits, updated with the weight and not shown in the copies.
        decays: do the moves' decays apply.
        rounding: of the moves, as for `axpby_`.
    """
    if not moves.plan[0]:
        residual, decays, rounding = None, False, 0
    tables, how = (moves.table, moves.values, moves.plan, list(window)), (decays and moves.decaying, rounding)
    if untraced(weight, residual, copies):
        walk(weight, residual, None, copies, *tables, *how)
        written(copies, *((weight, residual) if moves.plan[0] else ()))
    elif moves.plan[0]:
        _panel_pair_(weight, residual, copies, *tables, *how)
    else:
        _panel_pair(weight, copies, *tables)
