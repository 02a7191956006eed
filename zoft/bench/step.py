"""One cell of the benchmark: a model, a dtype, a batch; its rows and its table."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from zoft.bench.ceilings import Ceilings
from zoft.bench.contestants import CANDIDATES, CAPTURED, MODES, Batch, Contestants, merged_every
from zoft.bench.peak import peak_bytes
from zoft.bench.timing import Samples, Spread, interleave, ratio

BASELINE = {"forwards": "forwards", "label": "forwards_label"}
Row = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """What was timed, and how it went."""

    model: str
    dtype: torch.dtype
    rows: int
    length: int
    samples: Samples
    contestants: Contestants
    ceilings: Ceilings
    peaks: dict[str, int | None]
    weights: int  # elements
    products: int  # of them, those that every token is multiplied with

    def table_rows(self) -> list[Row]:
        """One a contestant: medians and quartiles in milliseconds, ratios round by round, the least time possible."""
        return [self._row(name) for name in self.samples]

    def _row(self, name: str) -> Row:
        samples = self.samples[name]
        wall, cpu = (Spread.of([1e3 * getattr(sample, clock) for sample in samples]) for clock in ("wall", "cpu"))
        row: Row = {
            "model": self.model, "dtype": str(self.dtype).removeprefix("torch."), "batch": f"{self.rows}x{self.length}",
            "contestant": name, "rounds": len(samples),
            "wall_ms": f"{wall.median:.1f}", "wall_q1": f"{wall.low:.1f}", "wall_q3": f"{wall.high:.1f}",
            "cpu_ms": f"{cpu.median:.1f}", "cpu_q1": f"{cpu.low:.1f}", "cpu_q3": f"{cpu.high:.1f}",
        }  # fmt: skip
        base = "forwards_label" if name.endswith("_label") else "forwards"
        rival = "mezo_passes" if name.endswith("_passes") else "mezo_harness" if name.endswith("_label") else "mezo"
        for column, other, swap in (("to_forwards", base, False), ("mezo_over_it", rival, True)):
            for clock in ("wall", "cpu"):
                known = other in self.samples and name != other
                pair = (other, name) if swap else (name, other)
                row[f"{column}_{clock}"] = f"{ratio(self.samples, *pair, clock).median:.3f}" if known else ""
        splits = [split for split in self.contestants.splits.get(name, []) if split.panels or split.sweeps]
        for part in ("panels", "sweeps", "rest"):
            row[f"{part}_ms"] = f"{Spread.of([1e3 * getattr(s, part) for s in splits]).median:.1f}" if splits else ""
        row["roofline_ms"] = f"{1e3 * self.ceilings.seconds(*self._work(name)):.1f}"
        row["bandwidth_GB_s"] = f"{self.ceilings.bandwidth / 1e9:.1f}"
        row["product_TFLOP_s"] = f"{self.ceilings.flops / 1e12:.3f}"
        peak = self.peaks.get(name)
        row["peak_MB"] = "" if peak is None else f"{peak / 1e6:.1f}"
        return row

    def _work(self, name: str) -> tuple[float, float]:
        """Bytes that must move and floating-point operations that must be done (attention's own products left out)."""
        size, tokens = self.dtype.itemsize, self.rows * self.length
        if name == "mezo_harness":
            tokens *= CANDIDATES
        label = name.endswith("_label")
        head = self.weights - self.products if label else 0  # rows that no position needs
        forwards = (2 * size * self.weights, 4 * tokens * (self.products - head if label else self.products))
        passes = 0.0
        if name.startswith("mezo"):
            passes = 4 * 2 * size * self.weights
        elif name.startswith("in_place"):
            passes = 2 * 2 * size * self.weights
        elif name.split("_label")[0] in (*MODES, CAPTURED):
            # read W (in lockstep once) and make two copies; read and write it once
            reads = 3 if "lockstep" in name else 4
            passes = (0 if name.startswith("low_rank") else reads * size * self.weights) + 2 * size * self.weights
            passes = passes / merged_every(name.split("_label")[0])
        if name.endswith("_passes"):
            return passes, 0.0
        return forwards[0] + passes, forwards[1]


def run(
    model: nn.Module,
    name: str,
    rows: int,
    length: int,
    wanted: Sequence[str],
    rounds: int,
    peaks: bool = False,
    *,
    seconds: float = math.inf,
    tell: Callable[[str], object] | None = None,
    survive: bool = False,
) -> Cell:
    """Time the contestants `wanted` on `model`, interleaved; `seconds` and `tell` as in `interleave`.

    With `survive` each is tried once before; one that fails is told and left out.
    """
    weight = next(model.parameters())
    contestants = Contestants(model, Batch.random(model, rows, length))
    if survive:
        callables = _working(contestants, wanted)
    else:
        callables = {contestant: contestants.get(contestant) for contestant in wanted}
    with torch.inference_mode(False):
        samples = interleave(callables, rounds, weight.device, seconds=seconds, tell=tell)
        contestants.splits = {key: taken[-len(samples[key]) :] for key, taken in contestants.splits.items()}
        held = {key: contestants.peak(key, work) for key, work in callables.items()} if peaks else {}
        measured = {key: peak_bytes(work, weight.device) for key, work in held.items()}
    elements = sum(w.numel() for w in model.parameters())
    return Cell(
        model=name, dtype=weight.dtype, rows=rows, length=length, samples=samples, contestants=contestants,
        ceilings=Ceilings.measure(weight.dtype, weight.device), peaks=measured, weights=elements,
        products=sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear)),
    )  # fmt: skip


def _working(contestants: Contestants, wanted: Sequence[str]) -> dict[str, Callable[[], object]]:
    """Those of the contestants that run.

    Raises:
        RuntimeError: none does.
    """
    callables: dict[str, Callable[[], object]] = {}
    for name in wanted:
        try:
            work = contestants.get(name)
            with torch.inference_mode(False):
                work()
        except Exception as error:
            print(f"FAILS  {name}: {type(error).__name__}: {' '.join(str(error).split())[:300]}", flush=True)
            contestants.splits.pop(name, None)
        else:
            callables[name] = work
    if not callables:
        raise RuntimeError(f"none of {', '.join(wanted)} runs here")
    return callables


def text(rows: Sequence[Row]) -> str:
    """The rows for a person."""
    shown = {
        "contestant": "", "wall_ms": "wall ms", "cpu_ms": "cpu ms", "to_forwards_wall": "/ its forwards",
        "to_forwards_cpu": "(cpu)",
        "mezo_over_it_wall": "MeZO / it", "mezo_over_it_cpu": "(cpu)", "panels_ms": "panels", "sweeps_ms": "sweeps",
        "rest_ms": "rest", "roofline_ms": "at least", "peak_MB": "peak MB",
    }  # fmt: skip
    lines = [list(shown.values()), *([str(row[key]) for key in shown] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:{'<' if i == 0 else '>'}{widths[i]}}" for i, cell in enumerate(line)) for line in lines
    )
