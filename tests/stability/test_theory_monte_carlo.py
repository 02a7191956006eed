"""Runs on a fixed quadratic: below eta* they contract, above it they diverge. Median over 24 seeds, all seeds at once.

Mean-square stability speaks of an average, which single runs follow when many modes share the noise; hence 32 of them.
"""

import numpy as np
import pytest
from numpy.typing import NDArray

from zoft.stability.theory import Distribution, adam_critical_lr, critical_lr

SEEDS, MODES = 24, 32
SPECTRUM = np.geomspace(0.3, 3.0, MODES)


def median_log_growth(
    lr: float | NDArray[np.float64],
    steps: int,
    momentum: float = 0.0,
    directions: int = 1,
    ema: bool = False,
    rademacher: bool = False,
) -> float:
    """Median over seeds of log10(||w_T||^2 / ||w_0||^2), two-point estimates of w' diag(SPECTRUM) w / 2."""
    generator = np.random.default_rng(7)
    w = np.ones((SEEDS, MODES))
    buffer = np.zeros_like(w)
    for _ in range(steps):
        u = generator.standard_normal((directions, SEEDS, MODES))
        if rademacher:
            u = np.sign(u)
        slopes = (u * (SPECTRUM * w)).sum(axis=2, keepdims=True)
        buffer = momentum * buffer + (1.0 - momentum if ema else 1.0) * (u * slopes).mean(axis=0)
        w = w - lr * buffer
    return float(np.median(np.log10((w**2).sum(axis=1) / MODES)))


@pytest.mark.parametrize(
    ("momentum", "directions", "ema", "distribution"),
    [
        (0.0, 1, False, "gaussian"),
        (0.0, 4, False, "gaussian"),
        (0.9, 1, False, "gaussian"),
        (0.9, 4, True, "gaussian"),
        (0.0, 1, False, "rademacher_diagonal"),
        (0.9, 1, False, "rademacher_diagonal"),
    ],
)
def test_below_the_threshold_runs_contract_and_above_they_diverge(
    momentum: float, directions: int, ema: bool, distribution: Distribution
) -> None:
    lr = critical_lr(SPECTRUM.tolist(), momentum=momentum, directions=directions, ema=ema, distribution=distribution)
    signs = distribution == "rademacher_diagonal"
    assert median_log_growth(0.9 * lr, 2000, momentum, directions, ema, signs) < -1.0
    assert median_log_growth(1.5 * lr, 2000, momentum, directions, ema, signs) > 3.0


def test_frozen_adam() -> None:
    scales = np.random.default_rng(8).uniform(0.2, 2.0, MODES)
    lr = adam_critical_lr(SPECTRUM.tolist(), scales.tolist(), beta1=0.9)
    assert median_log_growth(0.9 * lr / scales, 2000, 0.9, ema=True) < -1.0
    assert median_log_growth(1.5 * lr / scales, 2000, 0.9, ema=True) > 3.0
