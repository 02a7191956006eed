"""A population whose directions are of low rank: one base product for all members, thin products beside it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from zoft.errors import UsageError


def low_rank_products(
    x: torch.Tensor,
    weight: torch.Tensor,
    left: torch.Tensor,
    right: torch.Tensor,
    scales: Sequence[float],
    bias: torch.Tensor | None,
) -> torch.Tensor:
    """`Backend.low_rank` in plain torch, on any device.

    The thin products are written first and the base product is added to them by the vendor's library, which accumulates
    in float32: in 16 bits a displacement far below a unit of the result's last place is not lost, as it would be if it
    were added to a base product that was rounded already. No temporary is larger than the result.
    """
    _check(x, weight, left, right, scales, bias)
    points, rows = len(scales), weight.shape[0]
    flat = x.reshape(points, -1, weight.shape[1])
    thin = torch.bmm(flat, right).mul_(torch.tensor(scales, dtype=x.dtype, device=x.device).view(-1, 1, 1))
    if bias is None:
        y = torch.bmm(thin, left.transpose(1, 2))
    else:
        y = torch.baddbmm(bias.expand(points, rows).unsqueeze(1), thin, left.transpose(1, 2))
    torch.addmm(y.view(-1, rows), flat.reshape(-1, weight.shape[1]), weight.t(), out=y.view(-1, rows))
    return y.view(*x.shape[:-1], rows)


def _check(
    x: torch.Tensor,
    weight: torch.Tensor,
    left: torch.Tensor,
    right: torch.Tensor,
    scales: Sequence[float],
    bias: torch.Tensor | None,
) -> None:
    points, (rows, columns), rank = len(scales), weight.shape, left.shape[-1]
    wanted = {
        "x": (x.shape, (points, *x.shape[1:-1], columns)),
        "left": (left.shape, (points, rows, rank)),
        "right": (right.shape, (points, columns, rank)),
    }
    if bias is not None:
        wanted["bias"] = (bias.shape, (rows,) if bias.ndim == 1 else (points, rows))
    for name, (given, shape) in wanted.items():
        if tuple(given) != shape:
            raise UsageError(
                f"low_rank of {points} members and a weight {tuple(weight.shape)} wants {name} {shape}, not {tuple(given)}"
            )
    dtypes = {tensor.dtype for tensor in (x, weight, left, right, bias) if tensor is not None}
    if len(dtypes) > 1:
        raise UsageError(f"low_rank wants one dtype, not {', '.join(sorted(map(str, dtypes)))}")
