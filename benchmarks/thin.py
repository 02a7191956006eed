"""What thin factors cost beside a product, and the update along them, alone.

    python benchmarks/thin.py                    OPT-125M's shapes, 512 rows of x, both dtypes, ranks 1 to 32
    python benchmarks/thin.py --rows 1024 --ranks 1,2

For each layer's shape: the vendor's product with W, what the compiled pass writes beside it (bias + (x B) s A^T), and the same
by the vendor's products (milliseconds, medians). Then one sweep over all matrices, of one rank-one term and of 32.
"""

from __future__ import annotations

import argparse

import torch

from zoft.backends import Move, Rounding, Target, Term, backend
from zoft.backends.cpu.beside import Beside
from zoft.backends.shaped import ShapedBackend
from zoft.bench.timing import Spread, interleave
from zoft.directions import Direction, LowRank, Window

SHAPES = ((768, 768), (3072, 768), (768, 3072), (50272, 768))
MATRICES = (*(SHAPES[0],) * 48, *SHAPES[1:3] * 12, SHAPES[3], (2050, 768))


def products(dtype: torch.dtype, rows: int, ranks: list[int], rounds: int) -> None:
    for outputs, columns in SHAPES:
        x, weight, bias = (
            torch.randn(*shape).to(dtype) for shape in ((1, rows, columns), (outputs, columns), (outputs,))
        )
        work = {"x W^T": lambda x=x, weight=weight: x[0] @ weight.t()}
        for rank in ranks:
            left, right = (torch.randn(1, rank, n).to(dtype).transpose(1, 2) for n in (outputs, columns))
            scales = torch.full((1, rank), 2.0**-10)

            beside = Beside(weight, left, right, scales, bias)

            def compiled(x=x, beside=beside) -> torch.Tensor:
                return beside.beside(x[0])

            def vendor(x=x, left=left, right=right, scales=scales, bias=bias) -> torch.Tensor:
                thin = torch.bmm(x, right).mul_(scales)
                return torch.baddbmm(bias.expand(1, -1).unsqueeze(1), thin, left.transpose(1, 2))

            work |= {f"rank {rank}": compiled, "vendor's" + " " * rank: vendor}
        found = {
            name: Spread.of([1e3 * s.wall for s in taken]).median for name, taken in interleave(work, rounds).items()
        }
        print(
            f"{dtype} [{outputs}, {columns}]: " + ", ".join(f"{n.strip()} {ms:.2f}" for n, ms in found.items()),
            flush=True,
        )


def sweeps(dtype: torch.dtype, rounding: Rounding, rounds: int) -> None:
    ops, form, kept = ShapedBackend(backend("cpu")), LowRank("low_rank", 1), rounding.residual_dtype
    weights = [torch.randn(shape).to(dtype) for shape in MATRICES]
    lows = [None if kept is None else torch.zeros(w.shape, dtype=kept) for w in weights]
    targets = [Target(w, Window.whole(i, w.shape), residual=lows[i]) for i, w in enumerate(weights)]
    work = {}
    for count in (1, 32):
        terms = tuple(Term(Direction(0, step, form=form), 1e-9) for step in range(count))
        work[f"{count} terms"] = lambda terms=terms: ops.sweep_(targets, [Move(terms, rounding_key=(0, 1))], rounding)
    found = {name: Spread.of([1e3 * s.wall for s in taken]).median for name, taken in interleave(work, rounds).items()}
    print(f"{dtype}, {rounding.value}: " + ", ".join(f"{name} {ms:.1f}" for name, ms in found.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time thin factors.")
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--ranks", default="1,2,4,8,32")
    parser.add_argument("--rounds", type=int, default=9)
    asked = parser.parse_args()
    for dtype in (torch.bfloat16, torch.float32):
        products(dtype, asked.rows, [int(rank) for rank in asked.ranks.split(",")], asked.rounds)
    for rounding in (Rounding.RESIDUAL16, Rounding.STOCHASTIC, Rounding.NEAREST):
        sweeps(torch.bfloat16, rounding, asked.rounds)
    sweeps(torch.float32, Rounding.NEAREST, asked.rounds)


if __name__ == "__main__":
    main()
