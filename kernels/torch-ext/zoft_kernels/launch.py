"""From tensors and plain numbers to launches: tables of moves, and the choice of a kernel's arrangement."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import triton
from torch.utils._python_dispatch import _get_current_dispatch_mode

INTERPRETED = bool(triton.knobs.runtime.interpret)  # decided when Triton is imported
SIGNS, QUADS, FLAT = range(3)
NEAREST, STOCHASTIC, RESIDUAL8, RESIDUAL16 = range(4)
KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}
FLAT_COLUMNS = 16  # parameters with at most this many columns are read as a run of elements
QUAD_ELEMENTS = 256
WARPS = 2
REGISTERS = 255  # a thread may use; if nothing is said, the assembler sometimes spills a few to fit more programs
GROUPS = {SIGNS: 8, QUADS: 4, FLAT: 4}  # rows a program handles at once: registers are what is scarce
INTERPRETER_GROUP = 128  # there it is calls into numpy
TALL = 32  # rows at once where there are few programs
FEW = 256  # programs: fewer leave most of a GPU idle while each goes down its rows step by step

Term = tuple[bool, int, int, int, float]  # normal?, seed, step, tag (domain:4 | index:12), scale
Window = tuple[int, int, int, int, int, int]  # first row, rows, first column, columns, of the whole parameter; stream


@dataclass(frozen=True)
class Moves:
    """Moves and points with their terms as tables on the device (their form: `zoft_kernels.tile`).

    `plan` is what a kernel is compiled for: (moves, points, forms, fused). forms: 1 if there are signs + 2 if there are
    normals. fused: terms of the lone move (0 without one) if everything fits the SIGNS arrangement, else -1.
    """

    table: torch.Tensor  # [moves + points + terms, 3] int64
    values: torch.Tensor  # [moves + points + terms] float64: decays, nothing, scales
    plan: list[int]
    decaying: bool  # does any move scale the weights

    @classmethod
    def of(
        cls,
        moves: Sequence[tuple[float, tuple[int, int], Sequence[Term]]],
        points: Sequence[Sequence[Term]] = (),
        device: torch.device | str = "cpu",
    ) -> Moves:
        """Moves as (decay, (seed, step) of the rounding bits, terms), points as terms."""
        lists = [list(terms) for _, _, terms in moves] + [list(terms) for terms in points]
        start = len(lists)
        heads, values = [], []
        for n, terms in enumerate(lists):
            decay, key = moves[n][:2] if n < len(moves) else (1.0, (0, 0))
            heads.append((key_of(*key), start, start + len(terms)))
            values.append(decay)
            start += len(terms)
        flat = [term for terms in lists for term in terms]
        rows = heads + [(key_of(seed, step), tag, int(normal)) for normal, seed, step, tag, _ in flat]
        values += [term[4] for term in flat]
        forms = (1 if any(not term[0] for term in flat) else 0) | (2 if any(term[0] for term in flat) else 0)
        return cls(
            torch.tensor(rows, dtype=torch.int64).reshape(-1, 3).to(device),
            torch.tensor(values, dtype=torch.float64).to(device),
            [len(moves), len(points), forms, _fused(lists, len(moves), forms)],
            any(decay != 1.0 for decay, _, _ in moves),
        )


def key_of(seed: int, step: int) -> int:
    """A Philox key as the tables hold it: seed + 2^32 step, as a signed 64-bit number. Column 0 of a table has nothing else."""
    return signed(seed | step << 32)


def signed(word: int) -> int:
    """The signed 64-bit number with these bits.

    >>> signed(2**64 - 1)
    -1
    """
    return word - (1 << 64) if word >= 1 << 63 else word


def _fused(lists: list[list[Term]], moves: int, forms: int) -> int:
    """Terms of the lone move where the SIGNS arrangement knows everything that is asked, else -1."""
    terms = len(lists[0]) if moves else 0
    if forms != 1 or moves > 1 or terms > 2 or (moves and not terms):
        return -1
    directions = {point[0][1:4] if len(point) == 1 else None for point in lists[moves:]}
    return terms if len(directions) <= 1 and None not in directions else -1


@dataclass(frozen=True)
class Arrangement:
    """How a window is cut into programs and walked."""

    mode: int  # SIGNS, QUADS or FLAT
    columns: int  # of a tile
    group: int  # rows at a time
    row_tiles: int
    column_tiles: int

    @classmethod
    def of(cls, plan: Sequence[int], kind: int, window: Window, tall: bool = False) -> Arrangement:
        """
        Args:
            tall: where there are FEW programs, each may handle TALL rows at a time and fewer columns: four steps, not 16.
        """
        row, rows, _, columns, _, _ = window
        width = tile_columns(kind, columns)
        if columns <= FLAT_COLUMNS:
            quads = (-(-(row + rows) // 4) - row // 4) * columns
            return cls(FLAT, width, GROUPS[FLAT], -(-quads // QUAD_ELEMENTS), 1)
        mode = QUADS if plan[3] < 0 or kind == KINDS[torch.float64] else SIGNS
        group, row_tiles = GROUPS[mode], (row + rows - 1) // 128 - row // 128 + 1
        if tall and mode == SIGNS and row_tiles * -(-columns // width) < FEW:
            width, group = max(16, width * group // TALL), TALL
        return cls(mode, width, INTERPRETER_GROUP if INTERPRETED else group, row_tiles, -(-columns // width))


def registers(mode: int) -> int | None:
    """How many a thread may use at most; None: the assembler's choice, which suits the plain loops of SIGNS."""
    return None if mode == SIGNS else REGISTERS


def tile_columns(kind: int, columns: int) -> int:
    """Columns of a tile: 16 bytes a thread where the parameter is that wide."""
    widest = WARPS * 32 * {0: 4, 1: 8, 2: 8, 3: 2}[kind]
    return max(16, min(widest, 1 << (columns - 1).bit_length()))


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor as the kernels read it: 16-bit floats as int16."""
    tensor = tensor.detach()
    return tensor.view(torch.int16) if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def aligned(columns: int, *tensors: torch.Tensor) -> bool:
    """May 16 bytes be read at once?"""
    return columns % 16 == 0 and all(tensor.data_ptr() % 16 == 0 for tensor in tensors)


def untraced(*tensors: torch.Tensor | None) -> bool:
    """May a kernel be launched past torch's dispatcher, which takes twice as long as all the rest of a launch?

    Not where somebody looks on: torch.compile, a dispatch mode, or tensors of a kind of their own.
    """
    if torch.compiler.is_compiling() or _get_current_dispatch_mode() is not None:
        return False
    return all(tensor is None or type(tensor) is torch.Tensor for tensor in tensors)


def written(*tensors: torch.Tensor | None) -> None:
    """Tell autograd, as the dispatcher does: a graph that needs what stood there before must not be walked."""
    torch.autograd.graph.increment_version([t for t in tensors if t is not None and not t.is_inference()])


def on(device: torch.device) -> AbstractContextManager:
    """Kernels are launched on the current CUDA device: make it this one."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
