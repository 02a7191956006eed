"""A Reading: one curvature number, how sure it is, and whether it may be believed. Plain arithmetic."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from zoft.errors import UsageError
from zoft.stability.theory import noise_floor

Kind = Literal["trace", "frobenius_squared"]


@dataclass(frozen=True)
class Reading:
    """A measured curvature. Equations (P1) to (P9) of docs/math.md.

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
