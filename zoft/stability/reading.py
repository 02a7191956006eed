"""A Reading: one curvature number, how sure it is, and whether it may be believed. Plain arithmetic."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from zoft.errors import UsageError
from zoft.stability.theory import noise_floor

Kind = Literal["trace", "frobenius_squared", "lambda_max"]


@dataclass(frozen=True)
class Reading:
    """A measured curvature. Equations (P1) to (P11) of docs/math.md.

    >>> Reading("trace", value=12.0, standard_error=1.0, noise_floor=0.5, radius=1e-2, probes=8).interpretable
    True
    """

    kind: Kind
    value: float  # [loss / length^2]; squared for frobenius_squared
    standard_error: float  # of value, same units; math.inf where a single probe leaves the spread unknown
    noise_floor: float  # standard deviation of value from rounding alone, same units (P4)
    radius: float  # mu, the probe radius [length]
    probes: int  # directions that went in

    @property
    def finite(self) -> bool:
        """False when a loss overflowed or was nan."""
        return math.isfinite(self.value)

    @property
    def above_floor(self) -> bool:
        """|value| is larger than what rounding alone would show (one standard deviation, P4)."""
        return abs(self.value) > self.noise_floor

    @property
    def interpretable(self) -> bool:
        """Finite, positive and above the noise floor: only such a reading may set or move a cap."""
        return self.finite and self.value > 0.0 and self.above_floor

    def lower(self, deviations: float = 1.645) -> float:
        """value - deviations x standard error; 1.645 is the one-sided 95 % of a normal distribution."""
        return self.value - deviations * self.standard_error

    def upper(self, deviations: float = 1.645) -> float:
        """value + deviations x standard error: the pessimistic side for a cap, which divides by the trace."""
        return self.value + deviations * self.standard_error


def second_difference(loss_plus: float, loss_minus: float, loss_centre: float, radius: float) -> float:
    """c = (L(w + mu z) + L(w - mu z) - 2 L(w)) / mu^2 [loss / length^2], equation (P1); exact on a quadratic: z' H z.

    >>> second_difference(4.5, 0.5, 2.0, 1.0)  # L(x) = x^2 / 2 at x = 2
    1.0
    """
    if not radius > 0.0:
        raise UsageError(f"the probe radius must be positive, got {radius!r}")
    return ((loss_plus - loss_centre) + (loss_minus - loss_centre)) / radius**2


def trace_reading(
    probes: Sequence[float], radius: float, loss_noise: float = 0.0, shared_centre: bool = False
) -> Reading:
    """Mean of c over directions as a reading of Tr(H); equations (P2), (P4), (P9).

    Symbols: c `probes` [loss / length^2], mu `radius`, delta `loss_noise` [loss]. Unbiased up to O(mu^2) for
    Gaussian, Rademacher and sphere directions. The standard error is the sample's, plus the error of a centre loss
    that all probes share (2 delta / mu^2), which their spread cannot show. Raises UsageError for an empty list.

    >>> reading = trace_reading([9.0, 11.0, 10.0], radius=1e-2)
    >>> reading.value, round(reading.standard_error, 6)
    (10.0, 0.57735)
    """
    mean, variance = _moments(probes)
    common = 2.0 * loss_noise / radius**2 if shared_centre else 0.0
    return Reading(
        kind="trace",
        value=mean,
        standard_error=math.hypot(math.sqrt(variance / len(probes)), common),
        noise_floor=noise_floor(loss_noise, radius, len(probes), shared_centre),
        radius=radius,
        probes=len(probes),
    )


def frobenius_squared_reading(
    probes: Sequence[float], radius: float, loss_noise: float = 0.0, shared_centre: bool = False
) -> Reading:
    """Half the variance of Gaussian probes, less rounding, as a reading of ||H||_F^2; (P3), (P4), (P6).

    Units loss^2 / length^4. Unbiased up to O(mu^2); may come out negative when there is less variance than rounding
    explains. The standard error uses the sample's fourth moment: sqrt((m4 - m2^2) / N) / 2, right for large N.
    Gaussian probes only: with Rademacher the variance lacks the diagonal of H. Raises UsageError for fewer than two
    probes.

    >>> frobenius_squared_reading([8.0, 12.0], radius=1e-2).value
    4.0
    """
    count = len(probes)
    if count < 2:
        raise UsageError(f"a variance needs at least two probes, got {count}")
    mean, variance = _moments(probes)
    rounding = (2.0 if shared_centre else 6.0) * (loss_noise / radius**2) ** 2  # a shared centre moves all probes alike
    biased = variance * (count - 1) / count
    fourth = math.fsum((c - mean) ** 4 for c in probes) / count
    return Reading(
        kind="frobenius_squared",
        value=(variance - rounding) / 2.0,
        standard_error=math.sqrt(max(fourth - biased * biased, 0.0) / count) / 2.0,
        noise_floor=rounding * math.sqrt(2.0 / (count - 1)) / 2.0,  # spread of a normal sample's variance
        radius=radius,
        probes=count,
    )


def pool(readings: Sequence[Reading]) -> Reading:
    """One reading from several taken at the same weights (micro-batches, ranks): the mean weighted by probes, (P11).

    Exact for readings with independent errors: standard errors and floors add in quadrature. Weights by probe count
    and not by inverse variance, because a heavy tail makes small values look certain. Raises UsageError when kinds
    or radii differ.

    >>> a = Reading("trace", 10.0, 2.0, 0.0, 1e-2, 1)
    >>> b = Reading("trace", 16.0, 1.0, 0.0, 1e-2, 2)
    >>> pool([a, b]).value
    14.0
    """
    if not readings:
        raise UsageError("pool needs at least one reading, got none")
    if len({(reading.kind, reading.radius) for reading in readings}) > 1:
        raise UsageError("pool needs readings of one kind at one radius; pool each kind by itself")
    total = sum(reading.probes for reading in readings)
    shares = [reading.probes / total for reading in readings]
    return Reading(
        kind=readings[0].kind,
        value=math.fsum(share * reading.value for share, reading in zip(shares, readings, strict=True)),
        standard_error=math.hypot(*(share * r.standard_error for share, r in zip(shares, readings, strict=True))),
        noise_floor=math.hypot(*(share * r.noise_floor for share, r in zip(shares, readings, strict=True))),
        radius=readings[0].radius,
        probes=total,
    )


def blend(average: Reading, new: Reading, weight: float) -> Reading:
    """(1 - w) average + w new: one step of an average over time, (P11); independent errors, added in quadrature.

    `probes` counts everything that went in. Negative values are averaged like any other, since leaving them out
    would bias the mean upwards; values that are not finite raise UsageError, because no average recovers from one.

    >>> old = Reading("trace", 10.0, 1.0, 0.0, 1e-2, 4)
    >>> new = Reading("trace", 20.0, 1.0, 0.0, 1e-2, 4)
    >>> blend(old, new, 0.1).value
    11.0
    """
    if average.kind != new.kind:
        raise UsageError(f"cannot blend a reading of {new.kind} into an average of {average.kind}")
    if not (average.finite and new.finite):
        raise UsageError(f"cannot blend readings that are not finite: {average.value!r}, {new.value!r}")
    if not 0.0 <= weight <= 1.0:
        raise UsageError(f"weight must lie in [0, 1], got {weight!r}")
    keep = 1.0 - weight
    return Reading(
        kind=new.kind,
        value=keep * average.value + weight * new.value,
        standard_error=_quadrature(keep, average.standard_error, weight, new.standard_error),
        noise_floor=_quadrature(keep, average.noise_floor, weight, new.noise_floor),
        radius=new.radius,
        probes=average.probes + new.probes,
    )


def blend_weight(decay: float, seen: int) -> float:
    """Weight of the next reading after `seen` of them: 1 / (seen + 1) until that falls below 1 - decay; (P11).

    A plain mean first, an exponential average afterwards: no bias towards the first reading and none towards zero.

    >>> [round(blend_weight(0.75, seen), 3) for seen in range(5)]
    [1.0, 0.5, 0.333, 0.25, 0.25]
    """
    if not 0.0 <= decay < 1.0 or seen < 0:
        raise UsageError(f"need decay in [0, 1) and seen >= 0, got {decay!r}, {seen!r}")
    return max(1.0 - decay, 1.0 / (seen + 1))


def _quadrature(a: float, x: float, b: float, y: float) -> float:
    """hypot(a x, b y) in which a weight of zero silences even an infinite error."""
    return math.hypot(a * x if a else 0.0, b * y if b else 0.0)


def _moments(values: Sequence[float]) -> tuple[float, float]:
    """(mean, unbiased variance); the variance of a single value is unknown: infinite. Overflow and nan pass through."""
    count = len(values)
    if count == 0:
        raise UsageError("a reading needs at least one probe, got none")
    if any(not math.isfinite(value) for value in values):
        return math.nan, math.inf
    mean = math.fsum(values) / count
    if count == 1:
        return mean, math.inf
    return mean, math.fsum((value - mean) ** 2 for value in values) / (count - 1)
