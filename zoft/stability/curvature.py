"""When to measure the trace of the Hessian inside a run, with which radius, and what to believe. Plain arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from zoft.governor import Evidence, ProbePoint
from zoft.stability.averages import Average
from zoft.stability.reading import Reading, second_difference, trace_reading
from zoft.stability.settings import StabilitySettings
from zoft.stability.theory import noise_floor

COST = 0.05  # of a run's forwards, at most, unless stability_every says otherwise
FIRST_PROBES = 4  # directions of the first reading, which also measures the rounding noise
FLOOR_SHARE = 0.1  # rounding may add at most this share of the trace to one probe
LARGEST_RADIUS = 64  # x eps


class CurvatureWatch:
    """Readings of Tr(H) from losses: first one at the first step, then every so often.

    First step: four directions at radius r and r / 2 around one centre. With D(r) = L+ + L- - 2 L0, the combination
    D(r) - 4 D(r/2) is free of the second derivative; what is left is rounding of variance 70 delta^2 (and the fourth
    derivative, times r^4 / 16), so delta = rms / sqrt(70). The radius is then eps, where rounding adds no more than a
    tenth of the trace to one probe, and otherwise as large as that takes; it doubles while nothing rises above the
    floor.

    At radius eps the losses of the training step are half a probe: one more forward, the centre, completes it.

    Where a step moves one of several blocks of layers, what is read is the trace of that block's own part of H: each block has
    averages of its own, and whoever sets `block` says which are meant.
    """

    def __init__(self, settings: StabilitySettings, eps: float, forwards: int, blocks: int = 1) -> None:
        self.settings, self.eps, self.step_forwards = settings, eps, forwards  # of one training step
        self.block = 0  # that the present step moves
        self.noise = settings.stability_loss_noise  # delta; None: not measured yet
        self.radius = settings.stability_radius or (eps if self.noise is not None else eps / 2.0)
        self.settled = False  # has the first reading been taken, and a radius found
        self._seen = [Average(settings.stability_ema) for _ in range(blocks)]
        self._kept = [Average(settings.stability_ema) for _ in range(blocks)]
        self.held = 0  # readings that were not believed
        self.forwards = 0  # spent on probes, one for each point asked for
        self.last: Reading | None = None
        self._next = [0] * blocks  # step of the next reading

    @property
    def seen(self) -> Average:
        """Every finite reading of the block."""
        return self._seen[self.block]

    @property
    def kept(self) -> Average:
        """Those that may be believed: what a cap is made of."""
        return self._kept[self.block]

    @property
    def free(self) -> bool:
        """Do the training losses serve as probes."""
        return self.settled and self.settings.stability_probes == 0 and self.radius == self.eps

    @property
    def every(self) -> int:
        """Steps between readings of one block."""
        cost = 1 if self.free else 1 + 2 * max(1, self.settings.stability_probes)
        return len(self._next) * (self.settings.stability_every or math.ceil(cost / (COST * self.step_forwards)))

    def points(self, step: int, dense: bool = False) -> tuple[ProbePoint, ...]:
        """What to evaluate in this step: nothing, the centre, or it and pairs of probes; `dense`: in any case."""
        if step < self._next[self.block] and not dense:
            return ()
        radii: tuple[float, ...] = (self.radius,)
        count = max(1, self.settings.stability_probes)
        if not self.settled:
            radii = (self.radius, self.radius / 2.0) if self.noise is None else radii
            count = FIRST_PROBES
        pairs = () if self.free else tuple(
            ((index, sign * radius),) for index in range(count) for radius in radii for sign in (1.0, -1.0)
        )  # fmt: skip
        return ((), *pairs)

    def absorb(self, evidence: Evidence) -> None:
        """Take in the losses at `points`, where this step has any. `last` is None otherwise."""
        self.last = None
        if not evidence.points:
            return
        self.forwards += len(evidence.points)
        centre, losses = evidence.points[0], evidence.points[1:]
        self._next[self.block] = evidence.step + (self.every if self.settled else 1)
        if self.free and not evidence.pairs:  # an estimator without pairs: probes of its own from now on
            self.radius = self.eps * (1.0 + 2.0**-20)
            return
        if not self.settled:
            self._first(centre, losses, evidence.step)
            return
        pairs = evidence.pairs if self.free else tuple(zip(losses[::2], losses[1::2], strict=True))
        radius = evidence.eps if self.free else self.radius
        self._take([second_difference(plus, minus, centre, radius) for plus, minus in pairs], radius)

    def _first(self, centre: float, losses: tuple[float, ...], step: int) -> None:
        radius, group = self.radius, 4 if self.noise is None else 2
        wide = [second_difference(losses[i], losses[i + 1], centre, radius) for i in range(0, len(losses), group)]
        if self.noise is None:
            near = [
                second_difference(losses[i + 2], losses[i + 3], centre, radius / 2) for i in range(0, len(losses), 4)
            ]
            noise = rounding_noise(wide, near, radius)
            if not math.isfinite(noise):
                return  # try again in the next step
            self.noise = noise
        reading = trace_reading(wide, radius, self.noise, shared_centre=True)
        self.last = reading
        believable = reading.finite and abs(reading.value) > 3.0 * reading.noise_floor
        if not believable and self.settings.stability_radius is None and radius < LARGEST_RADIUS * self.eps:
            self.radius = 2.0 * max(radius, self.eps / 2.0)
            return
        self.settled = True
        if self.settings.stability_radius is None and believable:
            least = math.sqrt(noise_floor(self.noise, 1.0) / (FLOOR_SHARE * abs(reading.value)))  # (P4), solved for mu
            self.radius = max(self.eps, least)
        self._next[self.block] = step + self.every
        for probe in wide:
            self._average(probe, reading.noise_floor)

    def _take(self, probes: list[float], radius: float) -> None:
        assert self.noise is not None
        self.last = trace_reading(probes, radius, self.noise, shared_centre=True)
        self._average(self.last.value, self.last.noise_floor)

    def _average(self, value: float, floor: float) -> None:
        if math.isfinite(value):
            self.seen.add(value)
        if math.isfinite(value) and value > floor:
            self.kept.add(value)
        else:
            self.held += 1

    def pessimistic(self, deviations: float = 1.0, block: int | None = None) -> float | None:
        """The trace that caps are made of: the average of believed readings and one standard error; None: none yet.

        Of `block`, None being the one that the present step moves; of one without readings, the largest of the others'.

        Readings that are negative, not finite or below their floor change nothing here, so they never lift a cap.
        Leaving them out biases this average upwards and the cap downwards, which is the safe side.
        """
        own = self._kept[self.block if block is None else block]
        known = [own] if own.count else [kept for kept in self._kept if kept.count]
        return max((_upper(kept, deviations) for kept in known), default=None)

    def state(self) -> dict[str, Any]:
        return {
            "noise": self.noise, "radius": self.radius, "settled": self.settled,
            "seen": [seen.state() for seen in self._seen], "kept": [kept.state() for kept in self._kept],
            "held": self.held, "forwards": self.forwards, "next": list(self._next),
        }  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        self.noise, self.radius, self.settled = state["noise"], state["radius"], state["settled"]
        for averages, states in ((self._seen, state["seen"]), (self._kept, state["kept"])):
            for average, one in zip(averages, states, strict=True):
                average.load(one)
        self.held, self.forwards, self._next = state["held"], state["forwards"], list(state["next"])


def _upper(kept: Average, deviations: float) -> float:
    return kept.value + deviations * (kept.error if math.isfinite(kept.error) else kept.value)


def rounding_noise(wide: Sequence[float], near: Sequence[float], radius: float) -> float:
    """delta [loss] from probes c at `radius` and at half of it, along the same directions and around one centre; (P14).

    D(r) - 4 D(r/2) = r^2 (c(r) - c(r/2)) has no second derivative left in it, and a rounding variance of
    (2 + 32 + 36) delta^2. What the fourth derivative leaves, (3/4) (r^4 / 12) D^4 L, counts as noise too, so that a
    radius at which it matters is seen as a bad one.

    >>> rounding_noise([5.0, 7.0], [5.0, 7.0], 0.1)
    0.0
    """
    odd = [(w - n) * radius**2 for w, n in zip(wide, near, strict=True)]
    return math.sqrt(math.fsum(x * x for x in odd) / len(odd) / 70.0)
