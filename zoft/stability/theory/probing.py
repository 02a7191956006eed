"""What a probe c = (L(w + mu z) + L(w - mu z) - 2 L(w)) / mu^2 (P1) can tell, and how well.

Symbols: mu `radius` [length], delta `loss_noise`: the standard deviation of one loss evaluation [loss], F = ||H||_F.
"""

import math

from zoft.errors import UsageError


def noise_floor(loss_noise: float, radius: float, probes: int = 1, shared_centre: bool = False) -> float:
    """Standard deviation that rounding alone gives to a mean of probes [loss / length^2], equation (P4):

        sqrt(6 / N) delta / mu^2,   or   sqrt(2 / N + 4) delta / mu^2  when all N probes use one centre loss L(w)

    Exact for independent rounding errors of equal variance. A shared centre saves forwards, and its error does not
    average out. Below this floor a reading says nothing.

    >>> round(noise_floor(1e-6, 1e-2, probes=6), 12)
    0.01
    """
    _check(radius, probes)
    per_mean = 2.0 / probes + 4.0 if shared_centre else 6.0 / probes
    return math.sqrt(per_mean) * loss_noise / radius**2


def probe_radius(loss_noise: float, frobenius: float) -> float:
    """mu = (sqrt(3) delta / F)^(1/2): here rounding adds as much variance as Gaussian probes have; (P5), exact.

    A larger radius makes rounding negligible (its variance falls as mu^-4) and adds bias of order mu^2.
    `frobenius` is F [loss / length^2].

    >>> mu = probe_radius(1e-6, 50.0)
    >>> round(noise_floor(1e-6, mu) ** 2 / (2 * 50.0**2), 12)
    1.0
    """
    if not (loss_noise > 0.0 and frobenius > 0.0):
        raise UsageError(f"need loss_noise > 0 and frobenius > 0, got {loss_noise!r}, {frobenius!r}")
    return math.sqrt(math.sqrt(3.0) * loss_noise / frobenius)


def relative_standard_error(probes: int, effective_rank: float) -> float:
    """sqrt(2 / (N r)): relative standard error of the mean of N Gaussian probes, rounding aside; equation (P9), exact.

    Rademacher probes are never worse: their variance lacks 2 sum_i H_ii^2 (P3).

    >>> relative_standard_error(8, 25.0)
    0.1
    """
    if probes < 1 or not effective_rank > 0.0:
        raise UsageError(f"need probes >= 1 and effective_rank > 0, got {probes!r}, {effective_rank!r}")
    return math.sqrt(2.0 / (probes * effective_rank))


def smoothing_bias(trace: float, radius: float) -> float:
    """(mu^2 / 2) Tr [loss]: how much higher the smoothed loss lies at a minimum; (P10), exact on a quadratic.

    >>> smoothing_bias(100.0, 0.125)
    0.78125
    """
    return 0.5 * radius**2 * trace


def reachability(radius: float, lr: float) -> float:
    """kappa = mu^2 / eta [loss]: arXiv 2604.14669 sees the edge reached at about 0.01 and lost by about 0.09; (P10).

    An observation of that paper on its networks, not a theorem. `radius` is the training radius.

    >>> round(reachability(1e-3, 1e-6), 12)
    1.0
    """
    if not lr > 0.0:
        raise UsageError(f"lr must be positive, got {lr!r}")
    return radius**2 / lr


def _check(radius: float, probes: int) -> None:
    if not radius > 0.0 or probes < 1:
        raise UsageError(f"need radius > 0 and probes >= 1, got {radius!r}, {probes!r}")
