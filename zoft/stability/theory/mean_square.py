"""Exact mean-square stability from a spectrum: at which learning rate the second moment stops being bounded.

Setting: the local quadratic L(w) = w' H w / 2 with eigenvalues l_1 >= ... >= l_d >= 0 in units of loss / length^2, so a
learning rate has units length^2 / loss. Theory: Song et al., "Zeroth-Order Optimization at the Edge of Stability",
arXiv 2604.14669, and the derivations in docs/math.md.
"""

import math
from collections.abc import Sequence
from typing import Unpack

from zoft.errors import UsageError
from zoft.stability.theory.dynamics import Dynamics, Terms, terms

ROUNDING = 1e-6  # an eigenvalue above -ROUNDING * l_1 is a zero that an eigenvalue routine in float32 missed


def critical_lr(eigenvalues: Sequence[float], **dynamics: Unpack[Dynamics]) -> float:
    """The eta* below which E||w_t - w*||^2 stays bounded and above which it grows: the root of (5), or of (11).

        sum_i  eta l_i / (2 (1 - beta) - c eta l_i) = q,     c = 1 + 1/q - 2 beta / (1 + beta)      (Gaussian)

    Symbols: l_i `eigenvalues` [loss / length^2], q `directions`, beta `momentum`; see `Dynamics` for the other
    settings. Exact on a quadratic for any smoothing radius. Returns math.inf for a spectrum without curvature.
    Raises UsageError for a negative eigenvalue: next to a saddle no step size is stable. Source: theorems of arXiv
    2604.14669 for (1) to (3); q > 1 and other directions derived in docs/math.md.

    One weight, one Gaussian direction, E u^4 = 3: 1 - 2 h + 3 h^2 < 1 means h < 2/3.
    >>> round(critical_lr([1.0]), 12)
    0.666666666667
    >>> round(critical_lr([3.0, 1.0], distribution="rademacher_diagonal"), 12)  # 2 / Tr
    0.5
    >>> abs(critical_lr([1.0], directions=10**9) - 2.0) < 1e-8  # many directions: gradient descent, 2 / l_1
    True
    """
    t = terms(**dynamics)
    spectrum = _curvatures(eigenvalues)
    if not spectrum:
        return math.inf
    trace, top = math.fsum(spectrum), max(spectrum)
    edges = (
        t.directions * t.damping / (t.shared * trace),
        t.directions * t.damping / (t.shared * trace + t.directions * t.c * top),
    )  # of h-scaled step sizes; (6) and, for c < 0, the same two in reverse
    low, high = min(edges) * (1.0 - 1e-12), max(edges) * (1.0 + 1e-12)
    while True:
        middle = 0.5 * (low + high)
        if not low < middle < high:
            return middle / t.scale
        if _noise_gain(middle, spectrum, t) < t.directions:
            low = middle
        else:
            high = middle


def is_stable(lr: float, eigenvalues: Sequence[float], **dynamics: Unpack[Dynamics]) -> bool:
    """Whether (5) (or (11)) holds at this learning rate: mean-square stable on the quadratic. Exact; units as above.

    >>> is_stable(0.6, [1.0]), is_stable(0.7, [1.0])
    (True, False)
    """
    t = terms(**dynamics)
    return _noise_gain(lr * t.scale, _curvatures(eigenvalues), t) < t.directions


def adam_critical_lr(
    eigenvalues: Sequence[float], preconditioner: Sequence[float] | float, beta1: float = 0.9, directions: int = 1
) -> float:
    """eta* of ZO-Adam with a frozen preconditioner P (E5), equation (3) for q = 1:

        sum_i  eta l~_i / (2 (1 - eta l~_i / (1 + beta1))) = 1,     l~_i = l_i / P_i

    Symbols: l_i `eigenvalues` [loss / length^2], P_i `preconditioner` paired with them, or one number for scalar
    Adam (E6, see `scalar_adam_scale`) [loss / length]; the result is in units of length, as Adam's learning rates
    are. Exact where P commutes with H and stands still; approximate otherwise. Source: arXiv 2604.14669, theorem
    for ZO-Adam.

    >>> round(adam_critical_lr([2.0, 1.0], 4.0) / critical_lr([0.5, 0.25], momentum=0.9, ema=True), 12)
    1.0
    """
    values = list(eigenvalues)
    scales = [float(preconditioner)] * len(values) if isinstance(preconditioner, (int, float)) else list(preconditioner)
    if len(scales) != len(values) or any(not 0.0 < p < math.inf for p in scales):
        raise UsageError(
            f"preconditioner needs one positive number, or one for each of {len(values)} eigenvalues; got {scales[:5]}"
        )
    preconditioned = [value / p for value, p in zip(values, scales, strict=True)]
    return critical_lr(preconditioned, momentum=beta1, directions=directions, ema=True)


def scalar_adam_scale(mean_square_slope: float, directions: int = 1, adam_eps: float = 0.0) -> float:
    """P ~ sqrt(EMA p^2 / q) + eps: what ZO-Adam divides by, the same for almost every coordinate, equation (E6).

    `mean_square_slope` is the running mean of p^2 [loss^2 / length^2] over steps and directions, p the projected
    gradient. Exact for Rademacher directions with q = 1, where every coordinate of the estimate is +p or -p;
    approximate otherwise. Then Tr(P^-1 H) = Tr(H) / P: one scalar takes the place of a preconditioned trace.

    >>> scalar_adam_scale(9.0)
    3.0
    """
    if mean_square_slope < 0.0 or directions < 1:
        raise UsageError(f"need mean_square_slope >= 0 and directions >= 1, got {mean_square_slope!r}, {directions!r}")
    return math.sqrt(mean_square_slope / directions) + adam_eps


def first_order_critical_lr(
    lambda_max: float, momentum: float = 0.0, ema: bool = False, nesterov: bool = False
) -> float:
    """eta* with the exact gradient, for comparison; the limit q -> infinity of (5), equation (12); exact.

        2 (1 + beta) / l_1   heavy ball (2 / l_1: gradient descent),      2 (1 + b) / ((1 - b) l_1)   EMA momentum
        nesterov: the same over 1 + 2 beta

    `lambda_max` is l_1 [loss / length^2]. Of the preconditioned Hessian and with ema=True this is Adam's: 38 / l_1
    at 0.9.

    >>> first_order_critical_lr(1.0), round(first_order_critical_lr(1.0, momentum=0.9, ema=True), 9)
    (2.0, 38.0)
    """
    scale = terms(momentum=momentum, ema=ema).scale
    if not lambda_max > 0.0:
        raise UsageError(f"lambda_max must be positive, got {lambda_max!r}")
    look_ahead = 1.0 + 2.0 * momentum if nesterov else 1.0
    return 2.0 * (1.0 + momentum) / (lambda_max * scale * look_ahead)


def _curvatures(eigenvalues: Sequence[float]) -> list[float]:
    """The positive eigenvalues; zeros, and negatives of rounding size, add nothing to the sum in (11)."""
    values = [float(value) for value in eigenvalues]
    if any(not math.isfinite(value) for value in values):
        raise UsageError("eigenvalues must be finite numbers")
    top = max(values, default=0.0)
    lowest = min(values, default=0.0)
    if lowest < -ROUNDING * max(top, 0.0):
        raise UsageError(
            f"eigenvalue {lowest!r} is negative: on a saddle no learning rate is stable. "
            "Measure nearer to a minimum, or pass the positive part of the spectrum on purpose"
        )
    return [value for value in values if value > 0.0]


def _noise_gain(lr: float, spectrum: Sequence[float], t: Terms) -> float:
    """Left side of (11); infinite where a denominator has gone: that mode is unstable without help from the others."""
    total = []
    for value in spectrum:
        h = lr * value
        room = t.damping - t.c * h
        if room <= 0.0:
            return math.inf
        total.append(t.shared * h / room)
    return math.fsum(total)
