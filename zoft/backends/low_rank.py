"""A population whose directions are of low rank: one base product for all members, thin products beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from zoft.errors import UsageError

Scales = Sequence[float] | torch.Tensor  # one a member, or float32 (float64 for float64 weights) [points, rank]


def low_rank_products(
    x: torch.Tensor,
    weight: torch.Tensor,
    left: torch.Tensor,
    right: torch.Tensor,
    scales: Scales,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    """`Backend.low_rank` in plain torch, on any device.

    The thin products are written first and the base product is added to them by the vendor's library, which accumulates
    in float32: in 16 bits a displacement far below a unit of the result's last place is not lost, as it would be if it
    were added to a base product that was rounded already. No temporary is larger than the result.
    """
    check_low_rank(x, weight, left, right, scales, bias)
    points, rows = len(scales), weight.shape[0]
    flat = x.reshape(points, -1, weight.shape[1])
    thin = torch.bmm(flat, right).mul_(by_rank(scales, x).unsqueeze(1))
    if bias is None:
        y = torch.bmm(thin, left.transpose(1, 2))
    else:
        y = torch.baddbmm(bias.expand(points, rows).unsqueeze(1), thin, left.transpose(1, 2))
    return onto(y, flat, weight).view(*x.shape[:-1], rows)


def by_rank(scales: Scales, x: torch.Tensor) -> torch.Tensor:
    """The scales where x is, [points, rank] or [points, 1]."""
    if isinstance(scales, torch.Tensor):
        return scales if scales.device == x.device else scales.to(x.device)
    wide = torch.float64 if x.dtype is torch.float64 else torch.float32
    return torch.tensor(scales, dtype=wide, device=x.device).unsqueeze(1)


def onto(y: torch.Tensor, flat: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """y += x W^T, rounded once; y [points, n, rows] contiguous, x [points, n, columns]."""
    own = y.view(-1, weight.shape[0])
    torch.addmm(own, flat.reshape(-1, weight.shape[1]), weight.t(), out=own)
    return y


def check_low_rank(
    x: torch.Tensor,
    weight: torch.Tensor,
    left: torch.Tensor,
    right: torch.Tensor,
    scales: Scales,
    bias: torch.Tensor | None,
) -> None:
    """
    Raises:
        UsageError: shapes or dtypes that do not belong together.
    """
    points, (rows, columns), rank = len(scales), weight.shape, left.shape[-1]
    if (
        x.shape[0] != points
        or x.shape[-1] != columns
        or left.shape != (points, rows, rank)
        or right.shape != (points, columns, rank)
        or (isinstance(scales, torch.Tensor) and scales.shape != (points, rank))
        or (bias is not None and bias.shape != ((rows,) if bias.ndim == 1 else (points, rows)))
    ):
        given = {"x": x, "left": left, "right": right, "scales": scales, "bias": bias}
        _tell(given, points, weight, rank)
    if not x.dtype is weight.dtype is left.dtype is right.dtype or (bias is not None and bias.dtype is not x.dtype):
        dtypes = {tensor.dtype for tensor in (x, weight, left, right, bias) if tensor is not None}
        raise UsageError(f"low_rank wants one dtype, not {', '.join(sorted(map(str, dtypes)))}")


def _tell(given: dict[str, Any], points: int, weight: torch.Tensor, rank: int) -> None:
    """Which of the shapes is wrong."""
    rows, columns = weight.shape
    wanted = {
        "x": (points, *given["x"].shape[1:-1], columns),
        "left": (points, rows, rank),
        "right": (points, columns, rank),
        "scales": (points, rank),
        "bias": (rows,) if given["bias"] is None or given["bias"].ndim == 1 else (points, rows),
    }
    for name, shape in wanted.items():
        tensor = given[name]
        if isinstance(tensor, torch.Tensor) and tuple(tensor.shape) != shape:
            raise UsageError(
                f"low_rank of {points} members and a weight {(rows, columns)} wants {name} {shape}, not {tuple(tensor.shape)}"
            )
