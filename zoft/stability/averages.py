"""Averages over time that know how sure they are. Plain arithmetic."""

from __future__ import annotations

import math
from typing import Any

from zoft.errors import UsageError

WINDOWS = (32, 128, 512, 2048, 8192)  # steps


class Average:
    """An exponential average (a plain mean first) and its standard error, from the scatter of what went in; (P11).

        m <- (1 - w) m + w x,      V <- (1 - w)^2 V + w^2 (x - m)^2,      standard error = sqrt(V)

    Approximate: the scatter around the running mean stands for the scatter around the truth. Two numbers at least.

    >>> average = Average(decay=0.9)
    >>> for x in (9.0, 11.0, 10.0): average.add(x)
    >>> average.value
    10.0
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.value, self.count, self._variance = math.nan, 0, 0.0

    def add(self, x: float) -> None:
        """Take in one finite number."""
        weight = blend_weight(self.decay, self.count)
        old = x if self.count == 0 else self.value
        self.value = old + weight * (x - old)
        self._variance = (1.0 - weight) ** 2 * self._variance + (weight * (x - old)) ** 2
        self.count += 1

    @property
    def error(self) -> float:
        """Standard error of `value`; infinite before the second number."""
        return math.sqrt(self._variance) if self.count > 1 else math.inf

    def state(self) -> list[float]:
        return [self.value, self.count, self._variance]

    def load(self, state: list[float]) -> None:
        self.value, self.count, self._variance = state[0], int(state[1]), state[2]


class SignalFraction:
    """sf = ||g||^2 / E||g_b||^2 (9) from half-batch slopes (P12), averaged for as long as it takes to see it.

    One window keeps, with the weights of `Average`,  S = mean p1 p2,  P = mean p^2  and the standard error of their
    ratio by linearisation: r = p1 p2 - sf p^2,  V <- (1 - w)^2 V + w^2 r^2,  error = sqrt(V) / P. As sf falls, p1 p2
    becomes noise of size P around sf P, and N steps are needed where N >> 1 / sf^2. Therefore windows of 32 to 8,192
    steps run side by side. The shortest one whose error is below a third of sf speaks, else the longest; and no window
    is believed beyond what any other one allows (value + 2 errors), because among five of them some are lucky.

    Batches drawn without replacement: with B of N examples in a batch the mean of p1 p2 lies sigma^2 / (N - 1) below
    ||g||^2, because two disjoint halves are negatively correlated; p1 p2 + (B / N)(p^2 - p1 p2) takes it out exactly
    (P13). At B = N it says sf = 1.
    """

    def __init__(self, batch_fraction: float = 0.0, windows: tuple[int, ...] = WINDOWS) -> None:
        self.batch_fraction = batch_fraction
        self._windows = windows
        self._sums = [[0.0, 0.0, 0.0] for _ in windows]  # S, P, V
        self.count = 0

    def add(self, product: float, square: float) -> None:
        """One step: p1 p2 and p^2, each averaged over the step's directions."""
        product += self.batch_fraction * (square - product)
        for window, sums in zip(self._windows, self._sums, strict=True):
            weight = blend_weight(1.0 - 1.0 / window, self.count)
            sums[0] += weight * (product - sums[0])
            sums[1] += weight * (square - sums[1])
            residual = product - (sums[0] / sums[1] if sums[1] > 0.0 else 0.0) * square
            sums[2] = (1.0 - weight) ** 2 * sums[2] + (weight * residual) ** 2
        self.count += 1

    def read(self) -> tuple[float, float]:
        """(sf, standard error), not cut to [0, 1]: noise may push it outside. (nan, inf) before the eighth step."""
        if self.count < 8:
            return math.nan, math.inf
        windows = [(s / p, math.sqrt(v) / p) if p > 0.0 else (0.0, 0.0) for s, p, v in self._sums]
        value, error = next((window for window in windows if window[1] <= window[0] / 3.0), windows[-1])
        return min(value, *(other + 2.0 * spread for other, spread in windows)), error

    def lower(self, deviations: float = 1.0) -> float:
        """A bound from below that cannot stall: sf - deviations x error, at least half the error, within [0, 1].

        Where no signal can be told from noise, half the error stands for it; it falls like 1 / sqrt(steps), so that a
        step size in proportion to it becomes the classical decreasing one. nan before the eighth step.
        """
        value, error = self.read()
        return value if math.isnan(value) else min(max(value - deviations * error, 0.5 * error, 0.0), 1.0)

    def state(self) -> dict[str, Any]:
        return {"count": self.count, "sums": [list(sums) for sums in self._sums]}

    def load(self, state: dict[str, Any]) -> None:
        self.count, self._sums = state["count"], [list(sums) for sums in state["sums"]]


def blend_weight(decay: float, seen: int) -> float:
    """Weight of the next number after `seen` of them: 1 / (seen + 1) until that falls below 1 - decay; (P11).

    A plain mean first, an exponential average afterwards: no bias towards the first reading and none towards zero.

    >>> [round(blend_weight(0.75, seen), 3) for seen in range(5)]
    [1.0, 0.5, 0.333, 0.25, 0.25]
    """
    if not 0.0 <= decay < 1.0 or seen < 0:
        raise UsageError(f"need decay in [0, 1) and seen >= 0, got {decay!r}, {seen!r}")
    return max(1.0 - decay, 1.0 / (seen + 1))
