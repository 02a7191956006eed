"""The Triton backend for a step that is repeated without the host: tables that are made once and then stay where they are.

A CUDA graph repeats launches with the arguments that they had. The kernels read all that differs between two steps from tables
in device memory: the key (seed, step) of every draw, the scales of an update, and how many rows of each parameter a sweep
writes. So those are written anew, on the device, and the launches stay the same.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from zoft.backends.base import Move, Point
from zoft.backends.triton import TritonBackend, tables
from zoft_kernels import WINDOW, Launch, Moves, Weights, launches

KEY, ROWS = 0, WINDOW + 1  # columns of a table of moves, and of a sweep's table of addresses


class _Spent(NamedTuple):
    """Of an update."""

    moves: Moves
    taken: torch.Tensor  # int64 scalar: 1, or 0 if it moves nothing


class StandingBackend(TritonBackend):
    """Its ops may be repeated by a graph once they have run: then all tables are there.

    Moves and points are templates: the key of their directions and of their rounding is the one last given to `turn_`.
    Everything that takes part must stay where it is as long as the backend is used.
    """

    def __init__(self) -> None:
        super().__init__()
        self._tables: dict[tuple[tuple[Move, ...], tuple[Point, ...], torch.device], Moves] = {}
        self._sweeps: dict[tuple[int, tuple[tuple[int, ...], ...]], list[tuple[Launch, torch.Tensor]]] = {}
        self._spent: _Spent | None = None

    def turn_(self, key: torch.Tensor) -> None:
        """Let all tables draw with this key, an int64 scalar (`zoft_kernels.key_of`) on their device."""
        for moves in self._tables.values():
            moves.table[:, KEY].copy_(key)

    def scale_(self, update: Move, scales: torch.Tensor, taken: torch.Tensor) -> None:
        """What the sweeps of `update` do from now on.

        Args:
            update: a template without decay.
            scales: of its terms, float64 [terms], on the device.
            taken: int64 scalar on the device, 1; with 0 sweeps of this update write nothing, not even the bits that are there.
        """
        moves = self._moves((update,), (), scales.device)
        moves.values[1:].copy_(scales)
        self._spent = _Spent(moves, taken)

    def _moves(self, moves: tuple[Move, ...], points: tuple[Point, ...], device: torch.device) -> Moves:
        known = moves, points, device
        if known not in self._tables:
            self._tables[known] = tables(moves, points, device)
        return self._tables[known]

    def _sweep(self, members: list[Weights], moves: Moves, rounding: int) -> None:
        known = id(moves), tuple(weights.row() for weights in members)
        if known not in self._sweeps:
            made = launches(members, moves)
            self._sweeps[known] = [(launch, launch.addresses[:, ROWS].clone()) for launch in made]
        for launch, rows in self._sweeps[known]:
            if self._spent is not None and moves is self._spent.moves:
                launch.addresses[:, ROWS].copy_(rows * self._spent.taken)
            launch.run(moves, rounding)
