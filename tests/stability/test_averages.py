"""Averages over time, the signal fraction, and the rounding noise: each against what it should converge to."""

import itertools
import math
import random

import pytest

from zoft.errors import UsageError
from zoft.stability.averages import Average, SignalFraction, blend_weight
from zoft.stability.curvature import rounding_noise


def test_a_plain_mean_knows_its_standard_error() -> None:
    rng = random.Random(0)
    errors, claimed = [], []
    for _ in range(400):
        average = Average(decay=0.99)
        for _ in range(50):
            average.add(rng.gauss(3.0, 2.0))
        errors.append((average.value - 3.0) ** 2)
        claimed.append(average.error**2)
    assert sum(errors) / 400 == pytest.approx(4.0 / 50, rel=0.2)
    assert sum(claimed) / 400 == pytest.approx(4.0 / 50, rel=0.2)


def test_batches_without_replacement() -> None:
    """(P13) by enumeration: all batches of 4 out of 6 examples and all their halves."""
    slopes = [1.0, -2.0, 0.5, 3.0, 2.5, -1.5]
    truth = (sum(slopes) / 6) ** 2
    products, squares = [], []
    for batch in itertools.permutations(slopes, 4):
        first, second = (batch[0] + batch[2]) / 2, (batch[1] + batch[3]) / 2
        products.append(first * second)
        squares.append((sum(batch) / 4) ** 2)
    product, square = (math.fsum(values) / len(values) for values in (products, squares))
    assert product < truth < square
    assert product + (4 / 6) * (square - product) == pytest.approx(truth, rel=1e-12)


@pytest.mark.parametrize("fraction", [0.6, 0.1, 0.02])
def test_the_signal_fraction_is_found(fraction) -> None:
    """Slopes of a batch whose gradient is signal plus noise, each half with twice the noise; 6,000 steps.

    What is used may exceed the truth, by selection of the window and by the floor, but by less than the factor of 20 that
    a margin of 0.1 on the best step leaves before the expected loss rises (9).
    """
    rng = random.Random(1)
    signal, noise = math.sqrt(fraction), math.sqrt(1.0 - fraction)
    average = SignalFraction()
    used = []
    for step in range(6000):
        g = rng.gauss(0.0, signal)
        halves = [g + rng.gauss(0.0, math.sqrt(2.0) * noise) for _ in range(2)]
        average.add(halves[0] * halves[1], (sum(halves) / 2) ** 2)
        if step >= 3000:
            used.append(average.lower())
    value, error = average.read()
    assert abs(value - fraction) < 4.0 * error and error < 0.2
    assert min(used) > 0.0 and max(used) < 5.0 * fraction
    assert sum(used) / len(used) == pytest.approx(fraction, rel=0.5)


def test_without_a_signal_the_bound_falls_with_the_root_of_time() -> None:
    rng = random.Random(2)
    average, seen = SignalFraction(), {}
    for step in range(1, 8001):
        first, second = rng.gauss(0.0, 1.0), rng.gauss(0.0, 1.0)
        average.add(first * second, ((first + second) / 2) ** 2)
        seen[step] = average.lower()
    early = sum(seen[i] for i in range(300, 500)) / 200
    late = sum(seen[i] for i in range(7000, 8000)) / 1000
    assert 0.0 < late < 0.5 * early


def test_rounding_noise_is_recovered() -> None:
    """(P14) on a quartic with known rounding."""
    rng = random.Random(3)
    delta, radius = 1e-4, 0.1
    loss = lambda x: 3.0 * x * x + 0.1 * x**4 + rng.gauss(0.0, delta)  # noqa: E731
    estimates = []
    for _ in range(300):
        centre = loss(0.0)
        wide = [(loss(radius) + loss(-radius) - 2 * centre) / radius**2]
        near = [(loss(radius / 2) + loss(-radius / 2) - 2 * centre) / (radius / 2) ** 2]
        estimates.append(rounding_noise(wide, near, radius) ** 2)
    assert math.sqrt(sum(estimates) / 300) == pytest.approx(delta, rel=0.15)


def test_an_average_is_a_mean_first_and_exponential_later() -> None:
    average = Average(decay=0.9)
    for value in (4.0, 8.0, 6.0, 10.0):
        average.add(value)
    assert average.value == pytest.approx(7.0)
    for _ in range(1000):
        average.add(7.0)
    average.add(17.0)
    assert average.value == pytest.approx(8.0)
    with pytest.raises(UsageError, match="decay"):
        blend_weight(1.0, 3)
