"""Order and limits of the edges, for any spectrum; errors that say what to do."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoft.errors import UsageError
from zoft.stability.theory import (
    Distribution,
    Dynamics,
    adam_critical_lr,
    always_safe_edge,
    band,
    best_step,
    critical_lr,
    descent_edge,
    drift,
    edge_ratio,
    effective_rank,
    expected_change,
    first_order_critical_lr,
    is_stable,
    lambda_max_bracket,
    level,
    loss_only_band,
    noise_floor,
    noise_paid,
    probe_radius,
    right_edge,
    scalar_adam_scale,
    signal_fraction,
)

SPECTRA = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=12)
MOMENTA = st.sampled_from([0.0, 0.5, 0.9, 0.99])
COUNTS = st.sampled_from([1, 2, 8, 64])
ROOM = 1.0 + 1e-9  # rounding of sums and quotients


@given(SPECTRA, MOMENTA, COUNTS, st.booleans())
def test_edges_stand_in_order_around_the_exact_threshold(
    spectrum: list[float], momentum: float, directions: int, ema: bool
) -> None:
    """always safe <= loss-only left <= left <= exact <= loss-only right (Jensen) <= right."""
    settings: Dynamics = {"momentum": momentum, "directions": directions, "ema": ema}
    trace, squares = math.fsum(spectrum), math.fsum(x * x for x in spectrum)
    exact = critical_lr(spectrum, **settings)
    low, high = band(trace, max(spectrum), **settings)
    jensen_low, jensen_high = loss_only_band(trace, 2.0 * squares, **settings)
    assert always_safe_edge(trace, **settings) <= jensen_low * ROOM
    assert jensen_low <= low * ROOM
    assert low <= exact * ROOM
    assert exact <= jensen_high * ROOM
    assert jensen_high <= high * ROOM
    assert high == pytest.approx(right_edge(trace, **settings))
    assert edge_ratio(high, trace, **settings) == pytest.approx(1.0)
    assert is_stable(exact * (1 - 1e-9), spectrum, **settings)
    assert not is_stable(exact * (1 + 1e-9), spectrum, **settings)


@given(SPECTRA, MOMENTA, COUNTS)
def test_rademacher_on_a_diagonal_is_inside_its_band_and_never_below_gaussian(
    spectrum: list[float], momentum: float, directions: int
) -> None:
    settings: Dynamics = {"momentum": momentum, "directions": directions}
    signs: Dynamics = {**settings, "distribution": "rademacher_diagonal"}
    exact = critical_lr(spectrum, **signs)
    low, high = band(math.fsum(spectrum), max(spectrum), **signs)
    assert low <= exact * ROOM
    assert exact <= high * ROOM
    assert critical_lr(spectrum, **settings) <= exact * ROOM


@given(SPECTRA, MOMENTA)
def test_many_directions_give_the_first_order_threshold(spectrum: list[float], momentum: float) -> None:
    """(12), from below and for every distribution."""
    limit = first_order_critical_lr(max(spectrum), momentum)
    distributions: tuple[Distribution, ...] = ("gaussian", "rademacher_diagonal", "sphere")
    for distribution in distributions:
        lr = critical_lr(
            spectrum, momentum=momentum, directions=10**9, distribution=distribution, dimension=len(spectrum)
        )
        assert lr == pytest.approx(limit, rel=1e-4)
        assert lr <= limit * ROOM


@given(SPECTRA, MOMENTA, st.floats(1e-3, 1e3))
def test_scaling_and_padding(spectrum: list[float], momentum: float, factor: float) -> None:
    """Steeper by a factor means a threshold smaller by it; directions without curvature do not count."""
    lr = critical_lr(spectrum, momentum=momentum)
    assert critical_lr([factor * x for x in spectrum], momentum=momentum) == pytest.approx(lr / factor, rel=1e-9)
    assert critical_lr([*spectrum, 0.0, 0.0, -1e-9 * max(spectrum)], momentum=momentum) == lr


@given(SPECTRA, MOMENTA)
def test_more_directions_never_lower_the_threshold(spectrum: list[float], momentum: float) -> None:
    thresholds = [critical_lr(spectrum, momentum=momentum, directions=q) for q in (1, 2, 4, 8, 100)]
    assert all(a <= b * ROOM for a, b in itertools.pairwise(thresholds))


@given(SPECTRA)
def test_spectrum_numbers_bracket_the_top(spectrum: list[float]) -> None:
    trace, squares = math.fsum(spectrum), math.fsum(x * x for x in spectrum)
    low, high = lambda_max_bracket(trace, squares)
    assert low <= max(spectrum) * ROOM
    assert max(spectrum) <= high * ROOM
    assert 1.0 / ROOM <= effective_rank(trace, squares) <= len(spectrum) * ROOM


def test_the_paper_writes_the_same_conditions() -> None:
    """(1), (2) and (3) in their own form, evaluated at the root of (5)."""
    spectrum = [3.0, 1.0, 0.25, 0.0]
    lr = critical_lr(spectrum)
    assert sum(lr * x / (2 * (1 - lr * x)) for x in spectrum) == pytest.approx(1.0)
    beta, lr = 0.9, critical_lr(spectrum, momentum=0.9)
    assert sum(lr * x / (2 * (1 - beta) * (1 - lr * x / (1 - beta**2))) for x in spectrum) == pytest.approx(1.0)
    lr = adam_critical_lr(spectrum, 0.5, beta1=0.9)
    assert sum(lr * 2 * x / (2 * (1 - lr * 2 * x / (1 + 0.9))) for x in spectrum) == pytest.approx(1.0)


def test_a_flat_spectrum_without_an_outlier_reaches_the_right_edge() -> None:
    spectrum = [1.0] * 4000
    assert critical_lr(spectrum) == pytest.approx(right_edge(4000.0), rel=1e-3)
    assert critical_lr([0.0, 0.0]) == math.inf


@given(st.floats(0.01, 1.0), st.floats(0.1, 100.0), st.floats(0.0, 10.0), COUNTS)
def test_the_descent_edge_is_the_zero_of_the_identity_and_half_of_it_the_minimum(
    signal: float, trace: float, rayleigh: float, directions: int
) -> None:
    slope = 7.0
    edge = descent_edge(signal, trace, rayleigh, directions)
    assert expected_change(edge, signal * slope, slope, trace, rayleigh, directions) == pytest.approx(
        0.0, abs=1e-9 * edge
    )
    best = best_step(signal, trace, rayleigh, directions)
    gain = expected_change(best, signal * slope, slope, trace, rayleigh, directions)
    assert gain == pytest.approx(-best * signal * slope / 2)
    assert gain < expected_change(0.9 * best, signal * slope, slope, trace, rayleigh, directions)
    assert gain < expected_change(1.1 * best, signal * slope, slope, trace, rayleigh, directions)


def test_without_batch_noise_descent_and_stability_edges_agree() -> None:
    for directions in (1, 4):
        assert descent_edge(1.0, 10.0, 0.0, directions) == right_edge(10.0, directions=directions)
        assert descent_edge(1.0, 10.0, 3.0, directions) == pytest.approx(band(10.0, 3.0, directions=directions)[0])


def test_noise_paid_is_the_noise_term_of_the_identity_and_drift_adds_in_quadrature() -> None:
    lr, slope, trace = 0.01, 9.0, 30.0
    assert noise_paid(lr, trace, slope, 2) == pytest.approx(expected_change(lr, 0.0, slope, trace, 0.0, 2))
    assert noise_paid(lr, -5.0, slope) == 0.0
    walked = 0.0
    for _ in range(100):
        walked = drift(lr, slope, weights_norm=40.0, elements=10_000, spent=walked)
    assert walked == pytest.approx(math.sqrt(100) * lr * 3.0 * 100.0 / 40.0)
    assert drift(lr, slope, 40.0, 10_000, directions=4) == pytest.approx(walked / 10.0 / 2.0)


def test_the_numbers_of_a_measured_fine_tuning_run() -> None:
    """120,640 weights, ||w|| = 40.8, slope 3.6: a step of lr 3.3e-3 walks about 10 % of the weights' norm."""
    assert drift(3.3e-3, 3.6**2, 40.8, 120_640) == pytest.approx(0.10, rel=0.02)
    assert right_edge(27.0) == pytest.approx(0.075, rel=0.02)


def test_signal_fraction_is_cut_to_what_can_be() -> None:
    assert signal_fraction(-1.0, 2.0) == 0.0
    assert signal_fraction(3.0, 2.0) == 1.0
    assert signal_fraction(0.0, 0.0) == 0.0
    assert signal_fraction(1.0, 2.0) == 0.5


def test_levels_change_where_they_say() -> None:
    assert [level(s) for s in (-1.0, 0.0, 0.499, 0.5, 0.999, 1.0, 4.0, 4.001, math.inf)] == [
        "safe", "safe", "safe", "near", "near", "over", "over", "blow-up likely", "blow-up likely",
    ]  # fmt: skip


def test_noise_floors() -> None:
    assert noise_floor(1e-6, 1e-2) == pytest.approx(math.sqrt(6) * 1e-2)
    assert noise_floor(1e-6, 1e-2, 1, shared_centre=True) == pytest.approx(noise_floor(1e-6, 1e-2, 1))
    assert noise_floor(1e-6, 1e-2, 100, shared_centre=True) > 3 * noise_floor(1e-6, 1e-2, 100)
    assert noise_floor(1e-6, probe_radius(1e-6, 7.0)) == pytest.approx(math.sqrt(2) * 7.0)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: critical_lr([1.0], momentum=1.0), r"momentum must lie in \[0, 1\)"),
        (lambda: critical_lr([1.0], directions=0), "directions must be at least 1"),
        (lambda: critical_lr([1.0, -0.5]), "saddle"),
        (lambda: critical_lr([1.0, math.nan]), "finite"),
        (lambda: critical_lr([1.0], distribution="sphere"), "needs dimension"),
        (lambda: critical_lr([1.0], distribution="rademacher"), "use 'gaussian'"),  # pyright: ignore
        (lambda: adam_critical_lr([1.0, 2.0], [1.0]), "one for each of 2"),
        (lambda: adam_critical_lr([1.0], 0.0), "one positive number"),
        (lambda: scalar_adam_scale(-1.0), "mean_square_slope"),
        (lambda: first_order_critical_lr(0.0), "lambda_max must be positive"),
        (lambda: band(1.0, 2.0), "lambda_max <= trace"),
        (lambda: right_edge(-176.0), "keep the last"),
        (lambda: always_safe_edge(math.inf), "keep the last"),
        (lambda: loss_only_band(1.0, -1.0), "variance"),
        (lambda: loss_only_band(1.0, 1.0, distribution="rademacher_diagonal"), "derived for"),
        (lambda: level(math.nan), "no level"),
        (lambda: descent_edge(1.5, 1.0), r"signal in \[0, 1\]"),
        (lambda: descent_edge(0.5, -1.0), "positive finite trace"),
        (lambda: noise_paid(1.0, 1.0, 1.0, directions=0), "directions"),
        (lambda: drift(1.0, 1.0, 0.0, 10), "weights_norm"),
        (lambda: noise_floor(1.0, 0.0), "radius"),
    ],
)
def test_errors_say_what_to_do(call, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        call()
