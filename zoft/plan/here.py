"""The device that a plan is for: of the table, from a file of `zoft bench`, or this machine, whose rates are measured now."""

from __future__ import annotations

import csv
import os
import statistics
from dataclasses import replace
from pathlib import Path

import torch

from zoft.backends import Move, Target, Term, backend
from zoft.bench.ceilings import Ceilings
from zoft.bench.timing import CALLS_GPU, once, repeated
from zoft.config.suggest import did_you_mean
from zoft.costs.devices import DEVICES, Device
from zoft.costs.seconds import SWEEP
from zoft.directions import Direction, Distribution, Window
from zoft.errors import UsageError
from zoft.optimizer import ZOOptimizer

CALLS = 50  # of torch that a block of a model makes, each as short as one of a layer of 8 x 8 where the model is small
WEIGHT, WEIGHT_GPU = (4096, 2048), (32768, 4096)  # of which a displaced copy is made: larger than most caches
ASSUMED = DEVICES["laptop"]  # for a CPU: what is not measured


def device_of(name: str, dtype: str) -> Device:
    """
    Args:
        name: `here`, a name of the table, or a CSV file that `zoft bench` wrote.
        dtype: of the products whose rate is measured.

    Raises:
        UsageError: no such device; a file that is none of `zoft bench`.
    """
    if name == "here":
        return _measured(dtype)
    if name.endswith(".csv"):
        return _from_file(Path(name), dtype)
    if name.lower() not in DEVICES:
        raise UsageError(
            f"device {name!r} is not in the table{did_you_mean(name, DEVICES)}; there are here, {', '.join(DEVICES)}, or a CSV "
            "file of zoft bench"
        )
    return DEVICES[name.lower()]


def _measured(dtype: str) -> Device:
    where = "cuda" if torch.cuda.is_available() else "cpu"
    kind = getattr(torch, dtype)
    found = Ceilings.measure(kind, where, repeats=5)
    layer, x = torch.nn.Linear(8, 8, device=where), torch.zeros(1, 8, device=where)
    with torch.no_grad():
        calls = repeated(lambda: layer(x), CALLS_GPU if where == "cuda" else 1)
        call = statistics.median(once(calls, where).wall for _ in range(50))
    name = torch.cuda.get_device_name() if where == "cuda" else f"this machine's CPU, {torch.get_num_threads()} threads"
    return replace(
        _like(name, DEVICES["a100"] if where == "cuda" else ASSUMED),
        name=name,
        memory=_total(where),
        bandwidth=found.bandwidth,
        flops={dtype: found.flops},
        launch=CALLS * call,
        displace=_displacing(where),
        signs=_drawing(Distribution.RADEMACHER, kind, where, found.bandwidth),
        normals=_drawing(Distribution.GAUSSIAN, kind, where, found.bandwidth),
        source="just now (bandwidth, products, drawing, Python); links are stated or assumed",
        measured=True,
    )


def _drawing(law: Distribution, kind: torch.dtype, where: str, bandwidth: float) -> float:
    """The time of a displaced copy of a weight, in that of reading and writing as many bytes."""
    shape, calls = (WEIGHT_GPU, CALLS_GPU) if where == "cuda" else (WEIGHT, 1)
    weight, ops = torch.zeros(shape, dtype=kind, device=where), backend("auto", torch.device(where))
    target = Target(weight, Window.whole(1, weight.shape), out=torch.empty_like(weight))
    move = [Move((Term(Direction(1, 0, 0, law), 2.0**-10),))]
    taken = [once(repeated(lambda: ops.axpby_(target, move), calls), where).wall for _ in range(5)][2:]
    return statistics.median(taken) * bandwidth / (2 * weight.nbytes)


def _displacing(where: str) -> float:
    """Seconds a tensor, of ones so small that nothing else takes time: in a step each is displaced twice and moved once."""
    taken: dict[int, float] = {}
    for count in (1, 17):
        layers = (torch.nn.Linear(8, 8, bias=False, device=where) for _ in range(count))
        model, x = torch.nn.Sequential(*layers), torch.zeros(1, 8, device=where)
        optimizer = ZOOptimizer(model, lr=0.0)
        times = [once(lambda o=optimizer, m=model, x=x: o.step(lambda: m(x).sum()), where).wall for _ in range(16)]
        taken[count] = statistics.median(times[8:])  # forwards 1, 2, 4, 8 … are audited
    return max(0.0, taken[17] - taken[1]) / 16 / (2 + SWEEP)


def _like(name: str, otherwise: Device = ASSUMED) -> Device:
    """The device of the table that a GPU's name names, or another."""
    return next((device for key, device in DEVICES.items() if key in name.lower()), otherwise)


def _total(where: str) -> float:
    if where == "cuda":
        return float(torch.cuda.get_device_properties(0).total_memory)
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _from_file(path: Path, dtype: str) -> Device:
    if not path.is_file():
        raise UsageError(f"device={path}: there is no such file; write one with zoft bench --csv {path}")
    with path.open(newline="", encoding="utf-8") as text:
        rows = [row for row in csv.DictReader(text) if row.get("dtype") == dtype and row.get("bandwidth_GB_s")]
    if not rows:
        raise UsageError(f"device={path} holds no row of zoft bench for {dtype}; measure one with --dtype {dtype}")
    row = rows[-1]
    like = _like(row["device"])
    return replace(
        like,
        name=row["device"],
        memory=_total("cpu") if like is ASSUMED else like.memory,
        bandwidth=1e9 * float(row["bandwidth_GB_s"]),
        flops={dtype: 1e12 * float(row["product_TFLOP_s"])},
        source=f"bandwidth and products on {row['date']} by zoft bench ({path}); the rest: {like.source}",
        measured=True,
    )
