"""Learning rates from one measurement, for every rule: what `zoft probe` recommends is what the monitor would allow."""

import math

import pytest

from zoft.stability import StabilitySettings, Surroundings
from zoft.stability.advice import Measured, advise
from zoft.stability.averages import SignalFraction
from zoft.stability.reading import frobenius_squared_reading, trace_reading
from zoft.stability.theory import band, critical_lr, right_edge
from zoft.trainer.settings import ZOSettings

RULES = [
    ({"name": "sgd"}, {}, 1.0),
    ({"name": "momentum", "beta": 0.9}, {"momentum": 0.9}, 1.0),
    ({"name": "adam", "beta": 0.9, "beta2": 0.99, "delta": 0.0}, {"momentum": 0.9, "ema": True}, 3.0),
]


def measured(probes=(9.0, 11.0, 10.0, 10.0), sf: float = 0.64, size: float = 2.4, noise: float = 0.0) -> Measured:
    p = 3.0
    signal = SignalFraction()
    for step in range(64):
        signal.add((sf + noise * (-1.0) ** step) * p * p, p * p)
    return Measured(trace_reading(probes, 1e-2), frobenius_squared_reading(probes, 1e-2), signal, p * p, size)


def around(rule, directions: int = 1, norm: float = 50.0, tail: float | None = None) -> Surroundings:
    return Surroundings(rule, directions, eps=2.0**-10, elements=100, weights_norm=norm, tail=tail)


@pytest.mark.parametrize(("rule", "dynamics", "slope"), RULES)
@pytest.mark.parametrize("directions", [1, 4])
def test_edges_are_those_of_the_rule(rule, dynamics, slope, directions) -> None:
    seen = measured()
    scale = slope / math.sqrt(directions) if rule["name"] == "adam" else 1.0  # P of scalar adam, (E6)
    advice = advise(seen, around(rule, directions), StabilitySettings())
    least, most = seen.trace.lower(1.0) / scale, seen.trace.upper(1.0) / scale
    assert advice.edge[1] == pytest.approx(right_edge(least, directions=directions, **dynamics))
    top = min(math.sqrt(seen.frobenius_squared.value + seen.frobenius_squared.standard_error) / scale, most)
    assert advice.edge[0] == pytest.approx(band(most, top, directions=directions, **dynamics)[0])
    spectrum = [seen.trace.value / scale / 200.0] * 200
    assert advice.edge[0] < critical_lr(spectrum, directions=directions, **dynamics) < advice.edge[1]
    lr = right_edge(seen.trace.value / scale, directions=directions, **dynamics)
    assert advice.grade(2.0 * lr, seen, directions) == (pytest.approx(2.0), "over")


@pytest.mark.parametrize("tail", [None, 9.0])
@pytest.mark.parametrize("rule", [*(rule for rule, _, _ in RULES), {"name": "sign"}])
def test_the_upper_end_is_what_the_monitor_would_leave_alone(landscape, rule, tail) -> None:
    """A monitor that saw the same numbers lowers no rate below the range's end, and every rate clearly above it."""
    for drift in (None, 0.001):
        place = around(rule, tail=tail)
        advice = advise(measured((10.0, 10.0, 10.0), size=3.0), place, ZOSettings(stability_drift=drift))
        for share, capped in ((0.99, False), (1.1, True)):
            run = landscape(trace=10.0, rule=rule, tail=tail, stability_drift=drift)
            for _ in range(400):
                assert not run(lr=0.0, slope=3.0, halves=(4.8, 1.2)).capped
            assert run(lr=share * advice.recommended[1], slope=3.0, halves=(4.8, 1.2)).capped == capped


def test_directions_without_a_closed_form_are_advised_by_the_safe_edge() -> None:
    dense, thin = (
        advise(measured(), around({"name": "sgd"}, 4, tail=tail), StabilitySettings()) for tail in (None, 9.0)
    )
    assert thin.heavy == 12.0 and thin.edge[1] == dense.edge[1]
    assert thin.edge[0] == pytest.approx(right_edge(measured().trace.upper(1.0), directions=4) / 12.0)
    assert thin.descent == pytest.approx([edge / 12.0 for edge in dense.descent])
    s, grade = thin.grade(1.01 * right_edge(measured().trace.value, directions=4) / 12.0, measured(), 4)
    assert (s, grade) == (pytest.approx(1.01), "over")


def test_sign_descent_has_a_plateau_where_others_have_an_edge() -> None:
    advice = advise(measured((10.0, 10.0, 10.0)), around({"name": "sign"}), StabilitySettings())
    assert advice.edge == (pytest.approx(2.0 * 2.4 / 10.0), pytest.approx(2.0 * 2.4 / 10.0))  # 2 E|p| / Tr


@pytest.mark.parametrize("probes", [(-5.0, -6.0), (30.0, -25.0), (math.nan, 1.0), (1.0,)])
def test_no_rate_follows_from_a_trace_that_may_be_zero(probes) -> None:
    seen = measured()
    noisy = Measured(trace_reading(probes, 1e-2), seen.frobenius_squared, seen.signal, seen.square, seen.size)
    assert advise(noisy, around({"name": "sgd"}), StabilitySettings()) is None


def test_a_vanished_signal_lowers_the_range_and_does_not_close_it() -> None:
    strong, weak = (
        advise(measured(sf=sf, noise=0.5), around({"name": "sgd"}), StabilitySettings(stability_drift=None))
        for sf in (0.9, -0.2)
    )
    assert 0.0 < weak.recommended[0] <= weak.recommended[1] < 0.1 * strong.recommended[1]


def test_weights_that_begin_at_zero_have_no_drift_bound() -> None:
    assert advise(measured(), around({"name": "sgd"}, norm=0.0), StabilitySettings()).drift == math.inf
