"""Readings: their statistics on a known quadratic, and what may be believed."""

import math

import numpy as np
import pytest

from zoft.errors import UsageError
from zoft.stability.reading import (
    Reading,
    frobenius_squared_reading,
    second_difference,
    trace_reading,
)
from zoft.stability.theory import loss_only_band

SPECTRUM = np.geomspace(0.1, 5.0, 20)
RADIUS = 1e-2


def gaussian_probes(count: int, seed: int) -> list[float]:
    z = np.random.default_rng(seed).standard_normal((count, len(SPECTRUM)))
    return (z**2 @ SPECTRUM).tolist()


def reading(value: float, error: float = 1.0, floor: float = 0.5, probes: int = 4) -> Reading:
    return Reading("trace", value, error, floor, RADIUS, probes)


def test_second_difference_is_exact_on_a_quadratic_at_any_radius() -> None:
    generator = np.random.default_rng(0)
    factor = generator.standard_normal((5, 5))
    h, w, z = factor @ factor.T, generator.standard_normal(5), generator.standard_normal(5)

    def loss(x: np.ndarray) -> float:
        return float(x @ h @ x / 2)

    for mu in (1e-2, 1.0, 30.0):
        c = second_difference(loss(w + mu * z), loss(w - mu * z), loss(w), mu)
        assert c == pytest.approx(float(z @ h @ z), rel=1e-8)


def test_trace_and_norm_are_unbiased_and_their_standard_errors_true() -> None:
    """Over 2,000 repetitions: means within 4 standard deviations, and the stated errors are the observed spread."""
    runs = [gaussian_probes(50, seed) for seed in range(2000)]
    traces = [trace_reading(run, RADIUS) for run in runs]
    norms = [frobenius_squared_reading(run, RADIUS) for run in runs]
    truths = (SPECTRUM.sum(), (SPECTRUM**2).sum())
    for readings, truth in zip((traces, norms), truths, strict=True):
        values = np.array([r.value for r in readings])
        assert abs(values.mean() - truth) < 4 * values.std() / math.sqrt(len(values))
    spread = np.std([r.value for r in traces])
    assert np.sqrt(np.mean([r.standard_error**2 for r in traces])) == pytest.approx(spread, rel=0.05)


def test_rounding_is_taken_off_the_variance_and_enters_the_floor() -> None:
    """Losses with noise delta: floor as observed, ||H||_F^2 unbiased, with a centre of their own or a shared one."""
    generator, delta, count = np.random.default_rng(1), 2e-4, 8
    truth = float((SPECTRUM**2).sum())
    for shared in (False, True):
        errors, norms = [], []
        for seed in range(3000):
            exact = np.array(gaussian_probes(count, seed))
            outer = generator.normal(0, delta, (2, count)).sum(axis=0)
            centre = generator.normal(0, delta, 1 if shared else count)
            noisy = exact + (outer - 2 * centre) / RADIUS**2
            errors.append(noisy.mean() - exact.mean())
            norms.append(frobenius_squared_reading(noisy.tolist(), RADIUS, delta, shared).value)
        floor = trace_reading([1.0] * count, RADIUS, delta, shared).noise_floor
        assert np.std(errors) == pytest.approx(floor, rel=0.05)
        assert abs(np.mean(norms) - truth) < 4 * np.std(norms) / math.sqrt(len(norms))


def test_a_shared_centre_enters_the_standard_error_though_probes_agree() -> None:
    alike = trace_reading([3.0] * 10, RADIUS, loss_noise=1e-5, shared_centre=True)
    assert alike.standard_error == pytest.approx(0.2)
    assert trace_reading([3.0] * 10, RADIUS, loss_noise=1e-5).standard_error == 0.0


def test_readings_feed_the_loss_only_band() -> None:
    probes = gaussian_probes(20_000, seed=3)
    trace, norm = trace_reading(probes, RADIUS), frobenius_squared_reading(probes, RADIUS)
    exact = loss_only_band(float(SPECTRUM.sum()), 2 * float((SPECTRUM**2).sum()))
    assert loss_only_band(trace.value, 2 * norm.value) == pytest.approx(exact, rel=0.05)


@pytest.mark.parametrize(
    ("value", "believed"),
    [(2.0, True), (0.4, False), (-2.0, False), (math.nan, False), (math.inf, False), (0.0, False)],
)
def test_interpretable(value: float, believed: bool) -> None:
    assert reading(value).interpretable is believed


def test_losses_that_are_not_finite_give_a_reading_that_says_so() -> None:
    for bad in (math.nan, math.inf, -math.inf):
        result = trace_reading([1.0, bad, 2.0], RADIUS)
        assert not result.finite
        assert not result.interpretable
    assert trace_reading([5.0], RADIUS).standard_error == math.inf


def test_confidence_bounds() -> None:
    assert reading(10.0, 2.0).lower(1.5) == 7.0
    assert reading(10.0, 2.0).upper(1.5) == 13.0


def test_errors_say_what_came() -> None:
    with pytest.raises(UsageError, match="at least one probe"):
        trace_reading([], RADIUS)
    with pytest.raises(UsageError, match="at least two probes, got 1"):
        frobenius_squared_reading([1.0], RADIUS)
    with pytest.raises(UsageError, match="radius"):
        second_difference(1.0, 1.0, 1.0, 0.0)
