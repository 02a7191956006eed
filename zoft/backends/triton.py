"""The Triton backend: `zoft_kernels` behind the contract. CUDA, or CPU tensors under TRITON_INTERPRET=1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from zoft.backends.base import Move, Rounding, Target, runs
from zoft.backends.reference import ReferenceBackend
from zoft.directions import Distribution
from zoft.errors import UsageError
from zoft_kernels import Moves, Weights, sweep_

_ROUNDINGS = {Rounding.NEAREST: 0, Rounding.STOCHASTIC: 1, Rounding.RESIDUAL8: 2, Rounding.RESIDUAL16: 3}


class TritonBackend(ReferenceBackend):
    """One launch a storage type, whatever the number of parameters."""

    name = "triton"

    def axpby_(self, target: Target, moves: Sequence[Move], rounding: Rounding = Rounding.NEAREST) -> None:
        self.sweep_((target,), moves, rounding)

    def sweep_(self, targets: Sequence[Target], moves: Sequence[Move], rounding: Rounding = Rounding.NEAREST) -> None:
        first, *rest = runs(moves, rounding) or [([], rounding)]
        moves, rounding = first
        if rest:
            self.sweep_(targets, [replace(move, to_nearest=False) for move in moves], rounding)
            written = [t if t.out is None else replace(t, weight=t.out, out=None) for t in targets]
            for some, how in rest:
                self.sweep_(written, [replace(move, to_nearest=False) for move in some], how)
            return
        scattered: list[tuple[torch.Tensor, torch.Tensor]] = []  # (non-contiguous weight, its contiguous copy)
        by_device: dict[torch.device, list[Weights]] = {}
        for target in targets:
            if not moves and target.out is not None:
                target.out.detach().copy_(target.weight.detach())
            if target.weight.numel() == 0 or not moves:
                continue
            weights = _weights(target, rounding)
            if target.out is None and not target.weight.is_contiguous():
                scattered.append((target.weight, weights.weight))
            by_device.setdefault(target.weight.device, []).append(weights)
        for device, members in by_device.items():
            sweep_(members, _moves(moves, device), _ROUNDINGS[rounding])
        for weight, copy in scattered:
            weight.detach().copy_(copy)


def _moves(moves: Sequence[Move], device: torch.device) -> Moves:
    """The kernels' tables."""
    return Moves.of(
        [
            (
                move.decay,
                move.rounding_key,
                [
                    (
                        term.direction.distribution is Distribution.GAUSSIAN,
                        *term.direction.key,
                        term.direction.counter_tag,
                        term.scale,
                    )
                    for term in move.terms
                ],
            )
            for move in moves
        ],
        device,
    )


def _weights(target: Target, rounding: Rounding) -> Weights:
    """One target as the kernels take it, checked.

    Raises:
        UsageError: shape, dtype, layout or rounding that the kernels cannot handle.
    """
    weight, window, residual, out = target.weight, target.window, target.residual, target.out
    if weight.numel() != window.rows * window.columns:
        raise UsageError(f"a weight of {weight.numel()} elements cannot fill a window of {window.shape}")
    halves = (torch.bfloat16, torch.float16)
    if weight.dtype not in (torch.float32, torch.float64, *halves):
        raise UsageError(f"the triton backend moves float32, bfloat16, float16 and float64, not {weight.dtype}")
    if out is not None and (out.shape != weight.shape or out.dtype is not weight.dtype or not out.is_contiguous()):
        raise UsageError(
            f"`out` must be contiguous {weight.dtype} {tuple(weight.shape)}, not {out.dtype} {tuple(out.shape)}"
        )
    wanted = rounding.residual_dtype
    given = None if residual is None else residual.dtype
    if weight.dtype in halves and (wanted is not given or (wanted and weight.dtype is torch.float16)):
        raise UsageError(f"rounding {rounding.value} cannot store {weight.dtype} with a residual of {given}")
    if residual is not None and not residual.is_contiguous():
        raise UsageError("a residual must be contiguous")
    return Weights(
        weight.detach().contiguous(),
        (window.row, window.rows, window.column, window.columns, window.total_columns),
        window.stream,
        target.decays,
        residual,
        out,
        torch.empty_like(residual) if residual is not None and out is not None else None,
    )
