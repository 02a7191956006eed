"""Interleaved timing: every contestant once a round, so that a slow minute of the machine hits all of them."""

from __future__ import annotations

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
    contestants: Mapping[str, Callable[[], object]], rounds: int, device: torch.device | str = "cpu", warm: int = 1
) -> Samples:
    """Every contestant once a round, each round beginning with another one; `warm` rounds before are not kept."""
    names = list(contestants)
    samples: Samples = {name: [] for name in names}
    for number in range(-warm, rounds):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            sample = once(contestants[name], device)
            if number >= 0:
                samples[name].append(sample)
    return samples


def once(work: Callable[[], object], device: torch.device | str = "cpu") -> Sample:
    """One run, from an idle device to an idle device."""
    _wait(device)
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    _wait(device)
    return Sample(time.perf_counter() - wall, time.process_time() - cpu)


def ratio(samples: Samples, of: str, to: str, clock: str = "wall") -> Spread:
    """Of the times of two contestants, round by round."""
    pairs = zip(samples[of], samples[to], strict=True)
    return Spread.of([getattr(a, clock) / getattr(b, clock) for a, b in pairs])


def _wait(device: torch.device | str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
