"""What one step costs and buys: the identity (8), the mini-batch descent edge (9), noise paid (10), drift (17).

Here the estimate is spent at once (no momentum). With heavy ball pass the effective learning rate eta / (1 - beta),
which is what a sequence of steps moves by; that is an approximation for eta l_1 << 1. EMA momentum needs no
correction. Symbols: g full gradient, g_b gradient of a mini-batch, p = u' g_b its slope along a direction, so E p^2
= E||g_b||^2.
"""

import math

from zoft.errors import UsageError


def expected_change(
    lr: float,
    gradient_squared: float,
    mean_square_slope: float,
    trace: float,
    rayleigh: float = 0.0,
    directions: int = 1,
) -> float:
    """E[L(w+)] - L(w) of one zeroth-order step [loss], the identity (8):

        - eta ||g||^2 + (eta^2 / 2) [ (Tr / q) E||g_b||^2 + (1 + 1/q) E[g_b' H g_b] ]

    Symbols: ||g||^2 `gradient_squared`, E||g_b||^2 `mean_square_slope` [loss^2 / length^2], Tr `trace`, R = E[g_b'
    H g_b] / E||g_b||^2 `rayleigh` [loss / length^2], between 0 and l_1, q `directions`. Exact on a quadratic for
    Gaussian directions and unbiased mini-batches; an upper bound for Rademacher and the sphere on a positive
    semi-definite H. rayleigh=0 leaves a term out: good when l_1 << Tr / (q + 1). Source: derived in docs/math.md.

    >>> expected_change(0.125, 4.0, 4.0, trace=8.0)
    -0.25
    """
    _positive_count(directions)
    noise = (trace / directions + (1.0 + 1.0 / directions) * rayleigh) * mean_square_slope
    return -lr * gradient_squared + 0.5 * lr * lr * noise


def signal_fraction(gradient_squared: float, mean_square_slope: float) -> float:
    """sf = ||g||^2 / E||g_b||^2, cut to [0, 1]: how much of a mini-batch gradient is signal; (9) and (P12).

    `gradient_squared` is an estimate of ||g||^2, such as the mean of p1 p2 over two half-batches under one
    direction; noise can push it below 0 or above `mean_square_slope`, which no true value can be. 0 when the slopes
    are all zero.

    >>> signal_fraction(1.0, 4.0), signal_fraction(-0.3, 4.0)
    (0.25, 0.0)
    """
    if mean_square_slope <= 0.0:
        return 0.0
    return min(max(gradient_squared / mean_square_slope, 0.0), 1.0)


def descent_edge(signal: float, trace: float, rayleigh: float = 0.0, directions: int = 1) -> float:
    """eta_d = 2 q sf / (Tr + (q + 1) R): below it the loss falls in expectation, above it rises; equation (9).

    `signal` is sf in [0, 1], without units; the rest as in `expected_change`, and exact under the same conditions. With
    sf = 1 and R = 0 it is the right edge of stability again; with rayleigh=l_1 the left edge for momentum 0.

    >>> descent_edge(0.5, 10.0), descent_edge(1.0, 10.0, rayleigh=5.0)
    (0.1, 0.1)
    """
    _positive_count(directions)
    bottom = trace + (directions + 1) * rayleigh
    if not (0.0 <= signal <= 1.0 and 0.0 < bottom < math.inf):
        raise UsageError(f"need signal in [0, 1] and a positive finite trace, got {signal!r} and {trace!r}")
    return 2.0 * directions * signal / bottom


def best_step(signal: float, trace: float, rayleigh: float = 0.0, directions: int = 1) -> float:
    """eta_1 = eta_d / 2: the largest expected decrease that one step can have, eta_1 ||g||^2 / 2; equation (9).

    >>> best_step(0.5, 10.0)
    0.05
    """
    return descent_edge(signal, trace, rayleigh, directions) / 2.0


def noise_paid(lr: float, trace: float, mean_square_slope: float, directions: int = 1) -> float:
    """(eta^2 / 2) Tr p^2 / q [loss]: what one step costs through directions that were drawn by chance, a term of (10).

    `mean_square_slope` is the mean of p^2 over the step's q directions. The sum over steps is the noise paid so far.
    Approximate: the term in R of (8) is left out. Negative traces cost nothing here: they give 0.

    >>> noise_paid(0.125, 8.0, 4.0)
    0.25
    """
    _positive_count(directions)
    return 0.5 * lr * lr * max(trace, 0.0) * mean_square_slope / directions


def drift(
    lr: float, mean_square_slope: float, weights_norm: float, elements: int, directions: int = 1, spent: float = 0.0
) -> float:
    """Relative distance walked by noise, sqrt(spent^2 + eta^2 p^2 d / q / ||w_0||^2), without units; equation (17).

    Symbols: p^2 `mean_square_slope` [loss^2 / length^2], d `elements` (all trainable weights), ||w_0||
    `weights_norm` [length], `spent` the drift before this step. Exact in the mean for steps whose directions are
    independent and of squared length d, the gradient's own share ((1 - 1/q) ||g_b||^2, of order q / d) left out.

    >>> drift(0.1, 4.0, weights_norm=10.0, elements=100)
    0.2
    """
    _positive_count(directions)
    if not (weights_norm > 0.0 and elements >= 1):
        raise UsageError(f"drift needs weights_norm > 0 and elements >= 1, got {weights_norm!r} and {elements!r}")
    step = lr * math.sqrt(mean_square_slope * elements / directions) / weights_norm
    return math.hypot(spent, step)


def _positive_count(directions: int) -> None:
    if directions < 1:
        raise UsageError(f"directions must be at least 1, got {directions!r}")
