"""A population of low-rank directions in one forward pass, beside a plain forward pass of the same rows.

    python benchmarks/low_rank.py                                 8 directions of rank 1, OPT-125M, 16 x 64, both dtypes
    python benchmarks/low_rank.py --members 4 --rank 2 --rounds 15

Every linear layer, the head with its logits at every position included, sees its rows through `low_rank`: the rows are shared
evenly among the members. Rows go to benchmarks/results/low_rank.csv.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from zoft.backends import Backend, backend
from zoft.bench import rows
from zoft.bench.contestants import EPS, Batch
from zoft.bench.shapes import random_model
from zoft.bench.timing import Spread, interleave, ratio

RESULTS = Path(__file__).resolve().parent / "results" / "low_rank.csv"


@contextmanager
def population(model: nn.Module, ops: Backend, members: int, rank: int) -> Iterator[None]:
    """Inside, the rows of a batch, in their order, belong to members displaced by eps A B^T of their own."""
    layers = [module for module in model.modules() if type(module) is nn.Linear]
    for layer in layers:
        n, k = layer.weight.shape
        left, right = (
            torch.randint(0, 2, (members, size, rank), device=layer.weight.device)
            .mul_(2)
            .sub_(1)
            .to(layer.weight.dtype)
            for size in (n, k)
        )
        layer.forward = functools.partial(_forward, ops, layer, left, right, [EPS] * members)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _forward(
    ops: Backend, layer: nn.Linear, left: torch.Tensor, right: torch.Tensor, scales: list[float], x: torch.Tensor
) -> torch.Tensor:
    y = ops.low_rank(x.reshape(len(scales), -1, x.shape[-1]), layer.weight, left, right, scales, layer.bias)
    return y.view(*x.shape[:-1], y.shape[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description="Time a low-rank population.")
    parser.add_argument("--shape", default="opt-125m")
    parser.add_argument("--dtypes", default="bfloat16,float32")
    parser.add_argument("--batch", default="16x64", help="rows x tokens")
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--rank", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--csv", default=str(RESULTS))
    asked = parser.parse_args()
    told = rows.circumstances(asked.device)  # before a row is written: it changes the tree
    count, length = map(int, asked.batch.split("x"))
    for dtype in asked.dtypes.split(","):
        model = random_model(asked.shape, getattr(torch, dtype), asked.device)
        batch, ops = Batch.random(model, count, length), backend("auto", asked.device)

        @torch.no_grad()
        def plain(model=model, batch=batch) -> None:
            batch.full(model)

        @torch.no_grad()
        def many(model=model, batch=batch, ops=ops) -> None:
            with population(model, ops, asked.members, asked.rank):
                batch.full(model)

        samples = interleave({"plain": plain, "population": many}, asked.rounds, asked.device)
        ms = {name: Spread.of([1e3 * sample.wall for sample in taken]).median for name, taken in samples.items()}
        factor = ratio(samples, "population", "plain")
        print(
            f"{asked.shape}, {dtype}, {asked.batch}: plain {ms['plain']:.0f} ms, {asked.members} directions of rank "
            f"{asked.rank} {ms['population']:.0f} ms, x {factor.median:.3f} ({factor.low:.3f} to {factor.high:.3f})"
        )
        if asked.csv:
            rows.append(asked.csv, [{
                **told, "model": asked.shape, "dtype": dtype, "batch": asked.batch, "members": asked.members,
                "rank": asked.rank, "rounds": asked.rounds, "plain_ms": f"{ms['plain']:.1f}",
                "population_ms": f"{ms['population']:.1f}", "to_plain": f"{factor.median:.3f}",
                "q1": f"{factor.low:.3f}", "q3": f"{factor.high:.3f}",
            }])  # fmt: skip


if __name__ == "__main__":
    main()
