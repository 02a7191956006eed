"""What every Triton kernel compiles to for a GPU that need not be there: instructions an element, widths of accesses, spills.

    python benchmarks/codegen.py                    all of them, as CSV
    python benchmarks/codegen.py sweep_ gaussian    those whose row holds these words

Compiles for sm_90 whatever the ops launch, and reads the machine code with the disassembler that Triton brings along. The
count is dynamic: an instruction counts as often as the loops around it run. A pass of several moves or terms counts each.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

import zoft_kernels as ops
from zoft.bench.machine_code import Code, compiling, read
from zoft_kernels.launch import (
    FLAT_COLUMNS,
    GROUPS,
    KINDS,
    QUAD_ELEMENTS,
    SIGNS,
    TALL,
    WARPS,
    Moves,
    tile_columns,
)
from zoft_kernels.perturbed_embedding import COLUMNS, TOKENS

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
ROUNDINGS = ("nearest", "stochastic", "residual8", "residual16")
LOW = {"residual8": torch.int8, "residual16": torch.int16}
SHAPES = {"wide": (1 << 16, 1024), "small": (768, 768), "odd": (256, 100), "vector": (4096,)}
LAWS = ("rademacher", "gaussian")
STORAGE = [
    *((dtype, "nearest") for dtype in DTYPES),
    *(("bfloat16", rounding) for rounding in ROUNDINGS[1:]),
    ("float16", "stochastic"),
]


@dataclass(frozen=True)
class Case:
    op: str
    dtype: str
    rounding: str = "nearest"
    law: str = "rademacher"  # both: every second term is normal
    moves: int = 1
    terms: int = 1  # of a move or point
    points: int = 0
    shape: str = "wide"  # odd: no 16 bytes at once; small: too few programs for a GPU, so that each is made shorter

    def tables(self) -> Moves:
        normal = {"rademacher": (False, False), "gaussian": (True, True), "both": (False, True)}[self.law]
        terms = [(normal[n % 2], 1, 2, n, 1e-3) for n in range(self.terms)]
        return Moves.of([(0.999 if self.moves > 1 else 1.0, (1, 2), terms)] * self.moves, [terms[:1]] * self.points)

    def launch(self) -> None:
        """Call the op as zoft does; `compiling` must be around it."""
        shape, how, moves = SHAPES[self.shape], ROUNDINGS.index(self.rounding), self.tables()
        weight = torch.empty(shape, dtype=DTYPES[self.dtype])
        low = torch.empty(shape, dtype=LOW[self.rounding]) if self.rounding in LOW else None
        columns = shape[1] if len(shape) > 1 else 1
        window = (0, shape[0], 0, columns, columns, 1 << 40)
        if self.op == "axpby_":
            ops.axpby_(weight, moves, window, residual=low, decays=True, rounding=how)
        elif self.op == "sweep_":
            ops.sweep_([ops.Weights(weight, window, True, low)], moves, how)
        elif self.op == "dot":
            ops.dot(weight, moves, window, residual=low, rounding=how)
        elif self.op == "perturbed_embedding":
            ops.perturbed_embedding(weight, moves, torch.empty(self.points, 5, dtype=torch.long), window)
        else:
            copies = torch.empty(self.points, *shape, dtype=weight.dtype)
            ops.panel_pair(weight, moves, copies, window, residual=low, decays=True, rounding=how)

    def compiled(self) -> Any:
        with compiling() as kernels:
            self.launch()
        (kernel,) = kernels
        return kernel

    def measure(self) -> Code:
        """Compile and read."""
        dtype, streams = DTYPES[self.dtype], self.op != "perturbed_embedding"
        columns = SHAPES[self.shape][-1] if len(SHAPES[self.shape]) > 1 else 1
        flat = columns <= FLAT_COLUMNS and self.op != "dot"
        width = tile_columns(KINDS[dtype], columns) // (TALL // GROUPS[SIGNS] if self.shape == "small" else 1)
        tile = 4 * QUAD_ELEMENTS if flat else 128 * width
        elements = tile // (32 * WARPS) if streams else TOKENS * COLUMNS // 128
        written = (self.moves > 0) + self.points if self.op != "dot" else 1
        low = 8 * LOW[self.rounding].itemsize if self.rounding in LOW else 0
        level = 1 if flat or not streams else 0

        def trips(depth: int, stores: bool) -> int | None:
            depth += level
            if depth == 0:
                return None
            if depth == 1 and streams:
                return self.points if stores else self.moves
            return max(1, self.terms // 2) if self.law == "both" else self.terms

        return read(self.compiled(), elements, 8 * dtype.itemsize * written + low, trips)


def cases() -> Iterator[Case]:
    """Every kernel in every storage type, rounding and law; several moves, several terms and odd shapes where they differ."""
    for dtype, rounding in STORAGE:
        for law in LAWS:
            yield Case("sweep_", dtype, rounding, law)
            yield Case("sweep_", dtype, rounding, law, shape="vector")
            yield Case("axpby_", dtype, rounding, law)
            yield Case("panel_pair", dtype, rounding, law, points=2)
            if rounding != "stochastic":
                yield Case("dot", dtype, rounding, law, moves=0, points=1)
        yield Case("sweep_", dtype, rounding, terms=2)
        yield Case("sweep_", dtype, rounding, moves=2)
        yield Case("sweep_", dtype, rounding, "both", terms=2)
    for dtype in DTYPES:
        for law in LAWS:
            yield Case("panel_pair", dtype, law=law, moves=0, points=2)
            yield Case("panel_pair", dtype, law=law, moves=0, points=2, shape="vector")
            yield Case("sweep_", dtype, law=law, shape="odd")
            yield Case("perturbed_embedding", dtype, law=law, moves=0, points=2)
        if dtype != "float64":
            yield Case("axpby_", dtype, shape="small")
            yield Case("panel_pair", dtype, moves=0, points=2, shape="small")


def main() -> None:
    writer = csv.writer(sys.stdout)
    writer.writerow([field.name for field in (*fields(Case), *fields(Code))])
    for case in cases():
        row = list(asdict(case).values())
        if all(word in row for word in sys.argv[1:]):
            writer.writerow([*row, *asdict(case.measure()).values()])
            sys.stdout.flush()


if __name__ == "__main__":
    main()
