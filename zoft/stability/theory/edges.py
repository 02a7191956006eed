"""Edges of stability from what a run can measure: the trace, perhaps the top eigenvalue, perhaps the probes' variance.

Units: curvatures in loss / length^2, learning rates in length^2 / loss. H is taken positive semi-definite. For
ZO-Adam pass the trace and the top eigenvalue of P^-1 H and ema=True. Numbers in brackets are equations of
docs/math.md.
"""

import math
from typing import Literal, Unpack

from zoft.errors import UsageError
from zoft.stability.theory.dynamics import Dynamics, Terms, terms

Level = Literal["safe", "near", "over", "blow-up likely"]


def band(trace: float, lambda_max: float, **dynamics: Unpack[Dynamics]) -> tuple[float, float]:
    """(low, high) around eta*: every learning rate below low is stable, every one above high is not; (4) and (6).

        2 q (1 - beta) / (Tr + q c l_1)  <=  eta*  <=  2 q (1 - beta) / Tr,     c = 1 + 1/q - 2 beta / (1 + beta)

    Symbols: Tr `trace`, l_1 `lambda_max`, q `directions`, beta `momentum`; EMA momentum drops (1 - beta) on both
    sides and keeps c. Both inequalities are exact on a quadratic. Low holds for Rademacher and the sphere too (14);
    high does not. Where c < 0 (Rademacher on diagonal H with momentum) the two change places. Source: arXiv
    2604.14669 for q = 1; (6) derived in docs/math.md. Raises UsageError unless 0 < lambda_max <= trace.

    >>> band(10.0, 5.0)
    (0.1, 0.2)
    """
    t = _checked(trace, terms(**dynamics))
    if not 0.0 < lambda_max <= trace * (1.0 + 1e-9):
        raise UsageError(f"need 0 < lambda_max <= trace for a positive semi-definite H, got {lambda_max!r}, {trace!r}")
    edges = (_edge(t, trace, 0.0), _edge(t, trace, lambda_max))
    return min(edges), max(edges)


def right_edge(trace: float, **dynamics: Unpack[Dynamics]) -> float:
    """2 q (1 - beta) / Tr, or 2 q / Tr for EMA momentum: Gaussian directions are unstable above it, equation (6).

    Symbols as in `band`. Exact as an upper bound on a quadratic for Gaussian directions, and tight when no
    eigenvalue stands out (l_1 << Tr / q). For mini-batches it is optimistic: see `descent_edge` and (16).

    >>> right_edge(10.0), round(right_edge(10.0, momentum=0.9), 12), right_edge(10.0, momentum=0.9, ema=True)
    (0.2, 0.02, 0.2)
    """
    return _edge(_checked(trace, terms(**dynamics)), trace, 0.0)


def always_safe_edge(trace: float, **dynamics: Unpack[Dynamics]) -> float:
    """2 q (1 - beta) / (Tr (1 + q c)): stable whatever the spectrum is, because l_1 <= Tr; equation (13).

    Exact on a quadratic, and attained when H has one single eigenvalue. Symbols as in `band`.

    >>> round(always_safe_edge(1.0), 12)
    0.666666666667
    """
    return band(trace, trace, **dynamics)[0]


def loss_only_band(mean: float, variance: float, **dynamics: Unpack[Dynamics]) -> tuple[float, float]:
    """The band from the mean and variance of Gaussian probes c (P1) alone, equations (7) and (P7):

        2 q (1 - beta) / (Tr + q c F)  <=  eta*  <=  2 q (1 - beta) / (Tr + q c F^2 / Tr)

    Tr is `mean`, F^2 is `variance` / 2, which must be intrinsic: take 6 delta^2 / mu^4 of rounding off first (P4). The
    right side is Jensen's inequality with weights l_i / Tr. Both sides are exact on a quadratic for exact moments and
    Gaussian training directions. Source: derived in docs/math.md. Raises UsageError unless mean > 0, variance >= 0.

    >>> low, high = loss_only_band(10.0, 40.0)  # Tr = 10, F^2 = 20
    >>> round(low, 6), round(high, 6)
    (0.105573, 0.142857)
    """
    t = _checked(mean, terms(**dynamics))
    if t.own != 2.0 or t.shared != 1.0:
        raise UsageError("loss_only_band is derived for distribution='gaussian'; leave distribution out")
    low, high = lambda_max_bracket(mean, frobenius_squared(variance))
    return _edge(t, mean, high), _edge(t, mean, low)


def frobenius_squared(variance: float) -> float:
    """F^2 = ||H||_F^2 = Var(c) / 2 [loss^2 / length^4] for Gaussian probes, rounding taken off before; (P6), exact.

    >>> frobenius_squared(40.0)
    20.0
    """
    if not 0.0 <= variance < math.inf:
        raise UsageError(f"variance of the probes must be finite and not negative, got {variance!r}")
    return variance / 2.0


def effective_rank(trace: float, frobenius_squared: float) -> float:
    """r = Tr^2 / F^2, between 1 and d: how many equal eigenvalues would give this trace and norm; (P6), a definition.

    >>> effective_rank(10.0, 20.0)
    5.0
    """
    if not frobenius_squared > 0.0:
        raise UsageError(f"frobenius_squared must be positive, got {frobenius_squared!r}")
    return trace * trace / frobenius_squared


def lambda_max_bracket(trace: float, frobenius_squared: float) -> tuple[float, float]:
    """F^2 / Tr <= l_1 <= min(F, Tr) for a positive semi-definite H, equation (P7); exact inequalities.

    F^2 > Tr^2 cannot be for such an H; estimates may say so all the same, and are then cut to l_1 = Tr.

    >>> low, high = lambda_max_bracket(10.0, 20.0)
    >>> low, round(high, 6)
    (2.0, 4.472136)
    """
    if not (trace > 0.0 and frobenius_squared >= 0.0):
        raise UsageError(f"need trace > 0 and frobenius_squared >= 0, got {trace!r}, {frobenius_squared!r}")
    return min(frobenius_squared / trace, trace), min(math.sqrt(frobenius_squared), trace)


def edge_ratio(lr: float, trace: float, **dynamics: Unpack[Dynamics]) -> float:
    """s = eta Tr / (2 q (1 - beta)), without units: the learning rate in units of the right edge; equation (15).

    A negative trace gives a negative s, which says that there is no edge to compare with. EMA momentum drops (1 -
    beta).

    >>> round(edge_ratio(0.01, 20.0, momentum=0.9), 12)
    1.0
    """
    t = terms(**dynamics)
    return lr * t.scale * t.shared * trace / (t.directions * t.damping)


def level(ratio: float) -> Level:
    """Grade s of (15): below 0.5 safe, to 1 near, to 4 over, above that blow-up likely; a convention, not a theorem.

    The reason for four grades: where the spectrum has a long flat tail growth just above the edge takes very many
    steps. Raises UsageError for nan; a ratio that cannot be measured has no level.

    >>> [level(s) for s in (0.2, 0.5, 1.0, 4.1)]
    ['safe', 'near', 'over', 'blow-up likely']
    """
    if math.isnan(ratio):
        raise UsageError("the edge ratio is nan: no trace was measured, so there is no level to report")
    if ratio < 0.5:
        return "safe"
    if ratio < 1.0:
        return "near"
    return "over" if ratio <= 4.0 else "blow-up likely"


def _checked(trace: float, t: Terms) -> Terms:
    if not 0.0 < trace < math.inf:
        raise UsageError(
            f"an edge needs a finite positive trace, got {trace!r}; such a reading sets no cap: keep the last one"
        )
    return t


def _edge(t: Terms, trace: float, top: float) -> float:
    return t.directions * t.damping / (t.scale * (t.shared * trace + t.directions * t.c * top))
