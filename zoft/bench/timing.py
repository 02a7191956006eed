"""Interleaved timing: every contestant once a round, so that a slow minute of the machine hits all of them."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Sample:
    """One run."""

    wall: float  # seconds
    cpu: float  # seconds of processor time, all threads


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """
        >>> Spread.of([3.0, 1.0, 2.0])
        Spread(median=2.0, low=1.0, high=3.0)
        """
        if len(values) < 2:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4)
        return cls(median, max(low, min(values)), min(high, max(values)))


Samples = dict[str, list[Sample]]  # contestant -> one sample a round


def interleave(
    contestants: Mapping[str, Callable[[], object]],
    rounds: int,
    device: torch.device | str = "cpu",
    warm: int = 1,
    *,
    seconds: float = math.inf,
    tell: Callable[[str], object] | None = None,
) -> Samples:
    """Every contestant once a round, each round beginning with another one; `warm` rounds before are not kept.

    Args:
        contestants: what is timed, by name.
        rounds: how many are kept, at most.
        device: where they run.
        warm: rounds that are not kept.
        seconds: no round begins that would not be over by then, if it took as long as the slowest so far; one is kept
            whatever it takes.
        tell: is handed a line a round.
    """
    names = list(contestants)
    samples: Samples = {name: [] for name in names}
    begin, slowest = time.perf_counter(), 0.0
    for number in range(-warm, rounds):
        before = time.perf_counter()
        if number > 0 and before - begin + slowest > seconds:
            break
        start = number % len(names)
        taken = {name: once(contestants[name], device) for name in names[start:] + names[:start]}
        slowest = max(slowest, time.perf_counter() - before)
        if number >= 0:
            for name in names:
                samples[name].append(taken[name])
        if tell is not None:
            kind = f"round {number + 1} of {rounds}" if number >= 0 else "warm-up"
            times = ", ".join(f"{name} {1e3 * taken[name].wall:.0f}" for name in names)
            tell(f"{kind}, {time.perf_counter() - begin:.0f} s: {times} ms")
    return samples


def once(work: Callable[[], object], device: torch.device | str = "cpu") -> Sample:
    """One run, from an idle device to an idle device; of work that is several `steps`, the mean of them."""
    steps = getattr(work, "steps", 1)
    _wait(device)
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    _wait(device)
    return Sample((time.perf_counter() - wall) / steps, (time.process_time() - cpu) / steps)


CALLS_GPU = 8  # behind one another: their `repeated` mean is the work's own time, but for an eighth of Python's share


def repeated(work: Callable[[], object], times: int) -> Callable[[], object]:
    """So many runs, one handed over behind the other, as one of so many steps: for `once`, their mean.

    A GPU is idle while Python makes ready the first of them alone.
    """

    def run() -> None:
        for _ in range(times):
            work()

    run.steps = times  # type: ignore[attr-defined]
    return run


def ratio(samples: Samples, of: str, to: str, clock: str = "wall") -> Spread:
    """Of the times of two contestants, round by round."""
    pairs = zip(samples[of], samples[to], strict=True)
    return Spread.of([getattr(a, clock) / getattr(b, clock) for a, b in pairs])


def _wait(device: torch.device | str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
