"""The Triton backend: `zoft_kernels` behind the contract. CUDA, or CPU tensors under TRITON_INTERPRET=1."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import torch

from zoft.backends.base import PANEL_BYTES, Backend, Move, Point, Rounding, Target, Term, check_linear, runs
from zoft.backends.fold import fold
from zoft.directions import Direction, Distribution
from zoft.errors import UsageError
from zoft_kernels import (
    INTERPRETED,
    Moves,
    Table,
    Weights,
    alike,
    axpby_,
    dot,
    panel_pair,
    perturbed_embedding,
    perturbed_linear,
    sweep_,
)
from zoft_kernels import tables as sweep_tables

_ROUNDINGS = {Rounding.NEAREST: 0, Rounding.STOCHASTIC: 1, Rounding.RESIDUAL8: 2, Rounding.RESIDUAL16: 3}
_HALVES = (torch.bfloat16, torch.float16)
# Of which the tables are kept, 12 bytes a tile (some 20 MB of a 13B model's): a step has a few, and a streamed model's as many
# for each block
SWEEPS = 256


class TritonBackend(Backend):
    """One launch an op; a sweep is one launch a storage type, whatever the number of parameters."""

    name = "triton"

    def __init__(self) -> None:
        self._sweep_tables: OrderedDict[tuple[object, ...], list[Table]] = OrderedDict()  # used last, last

    def axpby_(self, target: Target, moves: Sequence[Move], rounding: Rounding = Rounding.NEAREST) -> None:
        for some, how in _passes(moves, rounding):
            weights = _weights(target, how)
            if weights.weight.numel() and some:
                axpby_(
                    weights.weight, self._moves(some, (), weights.weight.device), weights.window,
                    residual=weights.residual, out=weights.out, decays=weights.decays, rounding=_ROUNDINGS[how],
                )  # fmt: skip
            _hand_back(target, weights, some)
            target = _written(target)

    def sweep_(self, targets: Sequence[Target], moves: Sequence[Move], rounding: Rounding = Rounding.NEAREST) -> None:
        for some, how in _passes(moves, rounding):
            prepared = [(target, _weights(target, how)) for target in targets]
            by_device: dict[torch.device, list[Weights]] = {}
            for _, weights in prepared:
                if weights.weight.numel() and some:
                    by_device.setdefault(weights.weight.device, []).append(weights)
            for device, members in by_device.items():
                self._sweep(members, self._moves(some, (), device), _ROUNDINGS[how])
            for target, weights in prepared:
                _hand_back(target, weights, some)
            targets = [_written(target) for target in targets]

    def dot(self, target: Target, direction: Direction) -> torch.Tensor:
        kept = None if target.residual is None else target.residual.dtype
        rounding = next((how for how in Rounding if kept is not None and how.residual_dtype is kept), Rounding.NEAREST)
        weights = _weights(target, rounding)
        moves = self._moves((), ((Term(direction, 1.0),),), weights.weight.device)
        if not weights.weight.numel():
            return target.weight.new_zeros((), dtype=torch.promote_types(target.weight.dtype, torch.float32))
        return fold(
            dot(weights.weight, moves, weights.window, residual=weights.residual, rounding=_ROUNDINGS[rounding])
        )

    def panel_pair(
        self,
        target: Target,
        points: Sequence[Point],
        copies: torch.Tensor,
        moves: Sequence[Move] = (),
        rounding: Rounding = Rounding.NEAREST,
    ) -> None:
        *before, (last, how) = _passes(moves, rounding)
        for some, way in before:
            self.axpby_(target, some, way)
        if not last:  # nothing is stored: the copies show no residual bits
            target, how = Target(target.weight, target.window), Rounding.NEAREST
        weights = _weights(target, how)
        weight, wanted = weights.weight, (len(points), *weights.weight.shape)
        if copies.shape != wanted or copies.dtype is not weight.dtype or not copies.is_contiguous():
            raise UsageError(
                f"`copies` must be contiguous {weight.dtype} {wanted}, not {copies.dtype} {tuple(copies.shape)}"
            )
        if weight.numel() and (points or last):
            panel_pair(
                weight, self._moves(last, tuple(points), weight.device), copies, weights.window,
                residual=weights.residual, decays=weights.decays, rounding=_ROUNDINGS[how],
            )  # fmt: skip
        _hand_back(target, weights, last)

    def perturbed_embedding(self, ids: torch.Tensor, target: Target, points: Sequence[Point]) -> torch.Tensor:
        weights = _weights(Target(target.weight, target.window), Rounding.NEAREST)
        if ids.shape[0] != len(points):
            raise UsageError(f"ids of {ids.shape[0]} members do not suit a population of {len(points)}")
        return perturbed_embedding(
            weights.weight, self._moves((), tuple(points), ids.device), ids.contiguous(), weights.window
        )

    def perturbed_linear(
        self,
        x: torch.Tensor,
        target: Target,
        points: Sequence[Point],
        panel_bytes: int = PANEL_BYTES,
        bias: torch.Tensor | None = None,
        moves: Sequence[Move] = (),
        rounding: Rounding = Rounding.NEAREST,
    ) -> torch.Tensor:
        if bias is not None or moves:
            return super().perturbed_linear(x, target, points, panel_bytes, bias, moves, rounding)
        flat, panel_rows = check_linear(x, target, points, panel_bytes)
        weights = _weights(Target(target.weight, target.window), Rounding.NEAREST)
        shown = self._moves((), tuple(points), x.device)
        y = perturbed_linear(flat, weights.weight, shown, weights.window, panel_rows)
        return y.reshape(*x.shape[:-1], target.window.rows)

    def _moves(self, moves: tuple[Move, ...], points: tuple[Point, ...], device: torch.device) -> Moves:
        return _moves(moves, points, device)

    def _sweep(self, members: list[Weights], moves: Moves, rounding: int) -> None:
        """Launch a sweep over parameters of one device."""
        known = alike(members, moves)
        made = self._sweep_tables.pop(known, None)
        if made is None:
            made = sweep_tables(members, moves)
            if len(self._sweep_tables) >= SWEEPS:
                self._sweep_tables.popitem(last=False)
        self._sweep_tables[known] = made
        sweep_(members, moves, rounding, made)


def _term(term: Term) -> tuple[bool, int, int, int, float]:
    direction = term.direction
    return direction.distribution is Distribution.GAUSSIAN, *direction.key, direction.counter_tag, term.scale


def tables(moves: tuple[Move, ...], points: tuple[Point, ...], device: torch.device) -> Moves:
    """The kernels' tables of moves and points."""
    return Moves.of(
        [(move.decay, move.rounding_key, [_term(term) for term in move.terms]) for move in moves],
        [[_term(term) for term in point] for point in points],
        device,
    )


_moves = lru_cache(maxsize=64)(tables)  # a step uses few, and each for every parameter


def _passes(moves: Sequence[Move], rounding: Rounding) -> list[tuple[tuple[Move, ...], Rounding]]:
    """The moves of every pass over the weights: a kernel rounds in one way; at least one pass, be it without moves."""
    found = [(tuple(replace(move, to_nearest=False) for move in some), how) for some, how in runs(moves, rounding)]
    return found or [((), rounding)]


def _written(target: Target) -> Target:
    """Where a further pass goes on."""
    return target if target.out is None else replace(target, weight=target.out, out=None)


def _hand_back(target: Target, weights: Weights, moves: Sequence[Move]) -> None:
    """Where a kernel worked on a contiguous copy, or had nothing to do, put the result where it belongs."""
    if target.out is not None:
        if not moves:
            target.out.detach().copy_(target.weight.detach())
    elif moves and not target.weight.is_contiguous():
        target.weight.detach().copy_(weights.weight)


def _weights(target: Target, rounding: Rounding) -> Weights:
    """One target as the kernels take it, checked.

    Raises:
        UsageError: shape, dtype, layout or rounding that the kernels cannot handle.
    """
    weight, window, residual, out = target.weight, target.window, target.residual, target.out
    if weight.numel() != window.rows * window.columns:
        raise UsageError(f"a weight of {weight.numel()} elements cannot fill a window of {window.shape}")
    if weight.device.type != "cuda" and not INTERPRETED:
        raise UsageError(f"the triton backend works on CUDA tensors; for one on {weight.device} choose zo_backend=auto")
    if weight.dtype not in (torch.float32, torch.float64, *_HALVES):
        raise UsageError(f"the triton backend moves float32, bfloat16, float16 and float64, not {weight.dtype}")
    if out is not None and (out.shape != weight.shape or out.dtype is not weight.dtype or not out.is_contiguous()):
        raise UsageError(
            f"`out` must be contiguous {weight.dtype} {tuple(weight.shape)}, not {out.dtype} {tuple(out.shape)}"
        )
    wanted = rounding.residual_dtype
    given = None if residual is None else residual.dtype
    if weight.dtype in _HALVES and (wanted is not given or (wanted and weight.dtype is torch.float16)):
        raise UsageError(f"rounding {rounding.value} cannot store {weight.dtype} with a residual of {given}")
    if residual is not None and not residual.is_contiguous():
        raise UsageError("a residual must be contiguous")
    stream = window.stream - (1 << 64) if window.stream >= 1 << 63 else window.stream
    return Weights(
        weight.detach().contiguous(),
        (window.row, window.rows, window.column, window.columns, window.total_columns, stream),
        target.decays,
        residual,
        out,
    )
