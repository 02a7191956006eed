"""perturbed_linear: x[g] (W + s_g z)^T for a population, through panels of displaced rows and the vendor's product."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .launch import Moves, Window
from .walk import walk


@torch.library.custom_op("zoft_kernels::perturbed_linear", mutates_args=())
def _perturbed_linear(
    x: torch.Tensor, weight: torch.Tensor, table: torch.Tensor, values: torch.Tensor, plan: Sequence[int],
    window: Sequence[int], panel_rows: int,
) -> torch.Tensor:  # fmt: skip
    row, rows, column, columns, total_columns, stream = window
    members, tokens, _ = x.shape
    y = x.new_empty(members, tokens, rows)
    scratch = x.new_empty(members * min(panel_rows, rows) * columns)
    for start in range(0, rows, panel_rows):
        count = min(panel_rows, rows - start)
        copies = scratch[: members * count * columns].view(members, count, columns)
        place = (row + start, count, column, columns, total_columns, stream)
        walk(weight[start : start + count], None, None, copies, table, values, plan, place, False, 0)
        # quicker than one product each, and than products that are told where to write
        y[:, :, start : start + count] = torch.bmm(x, copies.transpose(1, 2)) if members > 1 else x @ copies[0].t()
    return y


@_perturbed_linear.register_fake
def _(x, weight, table, values, plan, window, panel_rows) -> torch.Tensor:
    return x.new_empty(x.shape[0], x.shape[1], window[1])


def perturbed_linear(
    x: torch.Tensor, weight: torch.Tensor, moves: Moves, window: Window, panel_rows: int
) -> torch.Tensor:  # fmt: skip
    """[members, tokens, rows].

    Args:
        x: [members, tokens, columns], of the weight's dtype.
        weight: contiguous matrix, not empty.
        moves: points only, one a member.
        window: the weight's place in the whole parameter.
        panel_rows: rows of scratch for each member.
    """
    return _perturbed_linear(x, weight, moves.table, moves.values, moves.plan, list(window), panel_rows)
