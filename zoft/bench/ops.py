"""Nanoseconds an element of the ops on weights, beside the machine's read-modify-write limit of the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from zoft.backends import Backend, Move, Rounding, Target, Term, backend
from zoft.bench.timing import CALLS_GPU, Spread, interleave, ratio, repeated
from zoft.directions import Direction, Distribution, Window

COLUMNS = 1024
BYTES = {"cpu": 1 << 27, "cuda": 1 << 29}  # several times the last cache: a share of fewer bytes would still lie in it
STEP = 2.0**-10


def contestants(
    ops: Backend, dtype: torch.dtype, shape: tuple[int, int], device: torch.device | str
) -> Iterator[tuple[str, Callable[[], object]]]:
    """`limit` first: one addition in place on as many bytes, by torch."""
    weight = (torch.randn(shape, device=device) * 0.02).to(dtype)
    window = Window.whole(5, weight.shape)
    as_float = weight.view(torch.float32)
    yield "limit", lambda: as_float.add_(0.0)
    out = torch.empty_like(weight)
    for law in Distribution:
        first, second = (Term(Direction(1, step, 0, law), STEP) for step in (2, 3))
        one, two = [Move((first,))], [Move((first,)), Move((second,))]
        name = f"axpby_ {law.value}"
        yield name, lambda one=one: ops.axpby_(Target(weight, window), one)
        yield f"{name} two moves", lambda two=two: ops.axpby_(Target(weight, window), two)
        yield f"{name} copy", lambda one=one: ops.axpby_(Target(weight, window, out=out), one)
        if dtype.itemsize > 2:
            continue
        stored = [Rounding.STOCHASTIC, *((Rounding.RESIDUAL8, Rounding.RESIDUAL16) if dtype is torch.bfloat16 else ())]
        for rounding in stored:
            kind = rounding.residual_dtype
            low = None if kind is None else torch.zeros(shape, dtype=kind, device=device)
            target = Target(weight, window, residual=low)
            yield f"{name} {rounding.value}", lambda t=target, one=one, r=rounding: ops.axpby_(t, one, r)


def run(
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    shape: tuple[int, int] | None = None,
    rounds: int = 9,
    backend_name: str = "auto",
    only: Sequence[str] = (),
    tell: Callable[[str], object] | None = None,
) -> list[dict[str, Any]]:
    """One row an op: median and quartiles over interleaved rounds, and how far from the limit.

    Args:
        shape: of the weight; None: `BYTES` of the device, in rows of `COLUMNS`.
    """
    ops = backend(backend_name, device)
    calls = CALLS_GPU if torch.device(device).type == "cuda" else 1
    shape = shape or (BYTES[torch.device(device).type] // (COLUMNS * dtype.itemsize), COLUMNS)
    chosen = {
        name: repeated(work, calls)
        for name, work in contestants(ops, dtype, shape, device)
        if name == "limit" or not only or any(word in name for word in only)
    }
    samples = interleave(chosen, rounds, device, tell=tell)
    elements = shape[0] * shape[1]
    rows = []
    for name, taken in samples.items():
        spread = Spread.of([1e9 * sample.wall / elements for sample in taken])
        rows.append({
            "backend": ops.name, "dtype": str(dtype).removeprefix("torch."), "op": name, "rounds": rounds,
            "ns_per_element": f"{spread.median:.4f}", "q1": f"{spread.low:.4f}", "q3": f"{spread.high:.4f}",
            "to_limit": f"{ratio(samples, name, 'limit').median:.2f}",
        })  # fmt: skip
    return rows
