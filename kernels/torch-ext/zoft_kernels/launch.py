"""From tensors and plain numbers to launches: tables of moves, and the choice of a kernel's arrangement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

SIGNS, NORMALS, ANY, FLAT = range(4)
NEAREST, STOCHASTIC, RESIDUAL8, RESIDUAL16 = range(4)
KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}
FLAT_COLUMNS = 16  # parameters with at most this many columns are read as a run of elements
FLAT_ELEMENTS = 1024
WARPS = 2


@dataclass(frozen=True)
class Moves:
    """Moves and their terms as tables on the device."""

    moves: torch.Tensor  # [moves, 4] int64: first term, end of terms, seed and step of the rounding bits
    decays: torch.Tensor  # [moves] float64
    terms: torch.Tensor  # [terms, 4] int64: 0 for signs or 1 for normals, seed, step, tag (domain:4 | index:12)
    scales: torch.Tensor  # [terms] float64
    signs: bool  # is there a term of signs
    normals: bool

    @classmethod
    def of(
        cls,
        moves: Sequence[tuple[float, tuple[int, int], Sequence[tuple[bool, int, int, int, float]]]],
        device: torch.device,
    ) -> Moves:
        """Moves as (decay, (seed, step) of the rounding bits, [(normal?, seed, step, tag, scale)])."""
        rows, terms, scales, decays = [], [], [], []
        for decay, key, move_terms in moves:
            rows.append((len(terms), len(terms) + len(move_terms), *key))
            decays.append(decay)
            for normal, seed, step, tag, scale in move_terms:
                terms.append((int(normal), seed, step, tag))
                scales.append(scale)
        kinds = {term[0] for term in terms}

        def table(values: list, columns: int, dtype: torch.dtype) -> torch.Tensor:
            shape = (-1, columns) if columns else (-1,)
            return torch.tensor(values or [0] * max(1, columns), dtype=dtype, device=device).reshape(shape)

        return cls(
            table(rows, 4, torch.int64),
            table(decays, 0, torch.float64),
            table(terms, 4, torch.int64),
            table(scales, 0, torch.float64),
            0 in kinds,
            1 in kinds,
        )

    @property
    def fused_terms(self) -> int:
        """Terms of a lone move that the fast arrangements know: 1 or 2 of signs, or 1 of normals; else 0."""
        count = self.scales.shape[0] if self.signs or self.normals else 0
        alone = self.moves.shape[0] == 1 and self.signs != self.normals
        return count if alone and count <= (2 if self.signs else 1) else 0


@dataclass(frozen=True)
class Weights:
    """One parameter, or a window of it: contiguous, of a dtype in KINDS."""

    weight: torch.Tensor
    window: tuple[int, int, int, int, int]  # first row, rows, first column, columns, columns of the whole parameter
    stream: int  # 64 bits
    decays: bool = False
    residual: torch.Tensor | None = None
    out: torch.Tensor | None = None
    residual_out: torch.Tensor | None = None  # takes the residual bits where `out` takes the weights

    def pointers(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Source, sink and both residuals as the kernels read them (16-bit floats as int16)."""

        def plain(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.view(torch.int16) if tensor.dtype in (torch.bfloat16, torch.float16) else tensor

        source = plain(self.weight.detach())
        sink = source if self.out is None else plain(self.out.detach())
        low = source if self.residual is None else self.residual
        low_sink = low if self.residual_out is None else self.residual_out
        return source, sink, low, low_sink


def arrangement(moves: Moves, kind: int, rounding: int, columns: int) -> int:
    """How a tile is walked (see `zoft_kernels.tile`)."""
    if columns <= FLAT_COLUMNS:
        return FLAT
    if not moves.fused_terms or kind == KINDS[torch.float64]:
        return ANY
    if moves.signs:
        return SIGNS
    dithered = kind != KINDS[torch.float32] and rounding in (STOCHASTIC, RESIDUAL8)
    return ANY if dithered else NORMALS


def tile_columns(kind: int, columns: int) -> int:
    """Columns of a tile: 16 bytes a thread where the parameter is that wide."""
    widest = WARPS * 32 * {0: 4, 1: 8, 2: 8, 3: 2}[kind]
    return max(16, min(widest, 1 << (columns - 1).bit_length()))


def tiles(weights: Weights, mode: int, width: int) -> tuple[int, int]:
    """Tiles of a window: (along rows, along columns)."""
    row, rows, _, columns, _ = weights.window
    if mode == FLAT:
        return -(-(rows * columns) // FLAT_ELEMENTS), 1
    return (row + rows - 1) // 128 - row // 128 + 1, -(-columns // width)
