"""The monitor's arithmetic: each bound where mathematics puts it, and caps that bad readings cannot lift."""

import math
from itertools import pairwise

import pytest

from zoft.directions import DirectionSource
from zoft.errors import UsageError
from zoft.estimate import Estimate
from zoft.rules.window import remember
from zoft.stability import StabilityMonitor, StabilitySettings, Surroundings
from zoft.stability.curvature import CurvatureWatch
from zoft.stability.spending import Gain
from zoft.stability.theory import descent_edge, right_edge


@pytest.mark.parametrize(
    ("rule", "dynamics"),
    [
        ({"name": "sgd"}, {}),
        ({"name": "momentum", "beta": 0.9}, {"momentum": 0.9}),
        ({"name": "adam", "beta": 0.9, "beta2": 0.99, "delta": 0.0}, {"momentum": 0.9, "ema": True}),
    ],
)
@pytest.mark.parametrize("directions", [1, 4])
def test_the_curvature_cap_is_half_the_right_edge_of_the_rule(landscape, rule, dynamics, directions) -> None:
    run = landscape(trace=10.0, rule=rule, directions=directions)
    decision = run(lr=100.0, slope=3.0)
    scale = 3.0 / math.sqrt(directions) if rule["name"] == "adam" else 1.0  # P of scalar adam, (E6)
    expected = 0.5 * right_edge(10.0 / scale, directions=directions, **dynamics)
    assert decision.capped and run.monitor.bound == "curvature"
    assert decision.lr == pytest.approx(expected, rel=1e-9)
    assert run.monitor.level == "near"  # half the edge is where "near" begins


def test_a_learning_rate_below_every_bound_is_left_alone(landscape) -> None:
    run = landscape(trace=10.0)
    decision = run(lr=0.05)
    assert decision.lr == 0.05 and not decision.capped and run.monitor.bound == "none"
    assert run.monitor.level == "safe"


def test_never_above_the_left_edge_where_lambda_max_is_known(landscape) -> None:
    run = landscape(trace=10.0, stability_margin=1.0, stability_lambda_max=10.0)  # rank one: left edge 2 / (Tr + 2 l_1)
    assert run(lr=1.0).lr == pytest.approx(2.0 / 30.0)


@pytest.mark.parametrize("bad", [-50.0, math.nan, math.inf, -math.inf, 0.0])
def test_a_bad_reading_holds_the_cap(landscape, bad) -> None:
    run = landscape(trace=10.0)
    good = run(lr=1.0).lr
    run.trace = bad
    for _ in range(20):
        run.loss = 1.0
        assert run(lr=1.0).lr == good
    run.trace = 20.0
    for _ in range(100):
        last = run(lr=1.0).lr
    assert last == pytest.approx(0.05, rel=1e-3)  # and a good one moves it again


def test_one_reading_alone_is_doubled_where_its_error_counts_and_not_elsewhere() -> None:
    watch = CurvatureWatch(StabilitySettings(), eps=0.5, forwards=2)
    watch.kept.add(10.0)
    assert watch.pessimistic(0.0) == 10.0 and watch.pessimistic() == 20.0


def test_a_reading_below_its_floor_sets_no_cap(landscape) -> None:
    run = landscape(trace=1e-3, stability_loss_noise=1e-3)  # floor sqrt(6) 1e-3 2^8 = 0.6 at eps
    decision = run(lr=1.0)
    assert not decision.capped and "stability/edge_high" not in run.monitor.metrics()


def test_the_descent_edge_shrinks_by_the_signal_fraction(landscape) -> None:
    run = landscape(trace=10.0, stability_descent_margin=0.5)
    for _ in range(400):
        decision = run(lr=1.0, slope=1.0, halves=(1.6, 0.4))  # p1 p2 / p^2 = 0.64 at every step
    assert run.monitor.bound == "descent"
    assert decision.lr == pytest.approx(0.5 * descent_edge(0.64, 10.0), rel=1e-6)
    assert run.monitor.metrics()["stability/signal_fraction"] == pytest.approx(0.64)


def test_a_whole_batch_has_a_signal_fraction_of_one(landscape) -> None:
    """Halves of the whole training set differ, but their difference is no noise: equation (P13) at B = N."""
    run = landscape(fraction=1.0)
    for _ in range(50):
        run(lr=0.01, slope=1.0, halves=(1.6, 0.4))
    assert run.monitor.metrics()["stability/signal_fraction"] == pytest.approx(1.0)


def test_the_drift_bound(landscape) -> None:
    run = landscape(stability_drift=0.01, stability_margin=None, stability_descent_margin=None)
    decision = run(lr=1.0, slope=2.0)
    assert decision.lr * 2.0 * math.sqrt(100.0) == pytest.approx(0.01 * 50.0)
    assert run.monitor.metrics()["stability/drift"] == pytest.approx(0.01)


@pytest.mark.parametrize("norm", [0.0, 0.5 * 2.0**-4 * math.sqrt(100.0)])
def test_weights_that_begin_at_zero_are_not_held_there(landscape, norm) -> None:
    """Below the distance of the training losses, eps sqrt(d), there is no drift to bound; the other bounds stand."""
    run = landscape(norm=norm, stability_drift=0.02)
    assert run(lr=0.01).lr == 0.01 and "drift" not in run.monitor.limits
    assert run(lr=10.0).lr == pytest.approx(0.1) and run.monitor.bound == "curvature"
    assert run.monitor.drift == 0.0


def test_the_noise_bound_is_what_one_step_may_cost(landscape) -> None:
    run = landscape(trace=10.0, stability_noise=1e-4, stability_margin=None, stability_descent_margin=None)
    for _ in range(50):
        before = run.monitor.noise_paid
        run(lr=1.0, slope=2.0)
    assert run.monitor.bound == "noise"
    assert run.monitor.noise_paid - before == pytest.approx(1e-4, rel=1e-6)


@pytest.mark.parametrize("switched_off", ["curvature", "descent", "drift"])
def test_each_bound_has_its_own_switch(landscape, switched_off) -> None:
    setting = {"curvature": "stability_margin", "descent": "stability_descent_margin", "drift": "stability_drift"}
    run = landscape(**{"stability_drift": 0.02, setting[switched_off]: None})
    for _ in range(20):
        run(lr=1.0, halves=(1.0, 1.0))
    assert run.monitor.limits.keys() == setting.keys() - {switched_off}


def test_reporting_does_not_touch_the_learning_rate(landscape) -> None:
    run = landscape(stability="report")
    decision = run(lr=3.0)
    assert decision.lr == 3.0 and not decision.capped
    assert run.monitor.metrics()["stability/level"] == 3.0 and run.monitor.level == "blow-up likely"


@pytest.mark.parametrize("directions", [1, 4])
@pytest.mark.parametrize("probes", [0, 1, 3])
def test_the_default_schedule_costs_at_most_five_percent(landscape, directions, probes) -> None:
    run = landscape(directions=directions, stability_every=None, stability_probes=probes)
    run(lr=0.01)
    warm_up, steps = run.monitor.curvature.forwards, 2000
    for _ in range(steps):
        run(lr=0.01)
    assert run.monitor.curvature.forwards - warm_up <= 0.05 * steps * 2 * directions


def test_the_rounding_noise_is_measured_and_chooses_the_radius() -> None:
    import random

    rng = random.Random(0)
    for noise, trace in ((1e-7, 20.0), (1e-5, 20.0), (1e-4, 200.0)):
        around = Surroundings({"name": "sgd"}, 1, eps=2.0**-10, elements=10, weights_norm=1.0)
        monitor = StabilityMonitor(StabilitySettings(), around)
        from zoft.governor import Evidence

        for step in range(12):
            points = tuple(
                1.0 + 0.5 * trace * sum(s for _, s in point) ** 2 + rng.gauss(0.0, noise)
                for point in monitor.request(step).points
            )
            monitor.decide(Evidence(step, 0.0, 1.0, (0.0,), None, ((1.0, 1.0),), around.eps, points))
            if monitor.curvature.settled:
                break
        watch = monitor.curvature
        assert watch.settled and watch.noise == pytest.approx(noise, rel=0.75)
        wanted = math.sqrt(math.sqrt(6.0) * noise / (0.1 * trace))
        assert watch.radius == pytest.approx(max(around.eps, wanted), rel=1.0)


def test_auto_measures_first_then_follows_the_best_step_and_never_stalls(landscape) -> None:
    run = landscape(trace=10.0, stability_auto=True, stability_auto_steps=20, stability_auto_margin=0.1)
    rates = [run(lr=1.0, halves=(1.6, 0.4)).lr for _ in range(300)]
    assert rates[:20] == [0.0] * 20 and all(rate > 0.0 for rate in rates[20:])
    assert rates[-1] == pytest.approx(0.1 * 0.64 / 10.0, rel=1e-3)
    assert max(b / a for a, b in pairwise(rates[20:])) <= 1.02 + 1e-12
    run.trace = 40.0
    for _ in range(60):
        quick = run(lr=1.0, halves=(1.6, 0.4)).lr
    assert quick < 0.3 * rates[-1]
    for step in range(3000):  # the signal disappears: noise of both signs
        sign = 1.0 if step % 2 else -1.0
        last = run(lr=1.0, halves=(1.0 + math.sqrt(1.0 + sign), 1.0 - math.sqrt(1.0 + sign))).lr
    assert 0.0 < last < 0.2 * quick


@pytest.mark.parametrize(("margin", "bound", "used"), [(0.1, "none", 0.1), (1.0, "descent", 0.2)])
def test_a_margin_of_auto_beyond_twice_that_of_the_descent_edge_is_held_there(landscape, margin, bound, used) -> None:
    run = landscape(stability_auto=True, stability_auto_margin=margin, stability_descent_margin=0.1)
    for _ in range(200):
        last = run(lr=1.0, halves=(1.6, 0.4)).lr
    assert run.monitor.bound == bound and last == pytest.approx(used * 0.64 / 10.0, rel=1e-3)


@pytest.mark.parametrize("trace", [-10.0, 0.0])
@pytest.mark.parametrize(
    ("norm", "share", "length"), [(50.0, 0.02, 1.0), (50.0, None, 2.0**-4 * 10.0), (0.0, 0.02, 2.0**-4 * 10.0)]
)
def test_auto_goes_by_distance_where_no_trace_is_positive(landscape, caplog, trace, norm, share, length) -> None:
    run = landscape(trace=trace, norm=norm, stability_auto=True, stability_drift=share, stability_every=None)
    rates = [run(lr=1.0, slope=2.0, halves=(3.2, 0.8)).lr for _ in range(20)]
    assert rates == [0.0] * 20
    dense = run.monitor.curvature.forwards
    rates = [run(lr=1.0, slope=2.0, halves=(3.2, 0.8)).lr for _ in range(60)]
    assert all(rate * 2.0 * math.sqrt(100.0) == pytest.approx(0.1 * length) for rate in rates)
    assert sum("no positive curvature" in record.message for record in caplog.records) == 1
    assert run.monitor.curvature.forwards - dense <= 0.05 * 2 * 60 + 3  # no longer dense
    run.trace = 1000.0
    for _ in range(200):
        last = run(lr=1.0, slope=2.0, halves=(3.2, 0.8)).lr
    assert 0.0 < last <= 0.1 * 0.64 / 1000.0 * (1.0 + 1e-9)


def test_auto_multiplies_the_factor_of_the_schedule_whatever_its_rate(landscape) -> None:
    one, other = landscape(stability_auto=True), landscape(stability_auto=True, base_lr=2.0**-20)
    for _ in range(40):
        a, b = one(lr=0.5, halves=(1.0, 1.0)), other(lr=2.0**-21, halves=(1.0, 1.0))
    assert a == b and a.lr > 0.0


def test_the_gain_of_adam_is_read_from_the_rule() -> None:
    gain = Gain({"name": "adam", "beta": 0.9, "beta2": 0.5, "delta": 0.0})
    assert gain.now([1.0], {"v": 7.5, "spent": 3}) == pytest.approx(1.0 / math.sqrt(4.25 / (1.0 - 0.5**4)))
    assert gain.now([2.0], {}) == pytest.approx(0.5)


def test_the_gains_of_rules_that_look_at_single_weights() -> None:
    """By the formulas of `Gain`; a window of one gradient, coefficients 3 and 4, and one step of slopes 2 and 2 after it."""
    root = math.sqrt(math.pi / 2.0)
    window = [remember(Estimate(DirectionSource(0).at(0, 2), (3.0, 4.0), 0.0))]  # 25; now 1 + 1
    full = Gain({"name": "full_adam", "beta": 0.9, "beta2": 0.5, "delta": 0.0})
    assert full.now([2.0, 2.0], {"v": 7.0, "spent": 1}) == pytest.approx(root / math.sqrt(4.5 / 0.75))
    adamezo = Gain({"name": "adamezo", "beta": 0.9, "beta2": 0.5, "delta": 0.0, "window": 2})
    assert adamezo.now([2.0, 2.0], {"window": window}) == pytest.approx(root / math.sqrt((2.0 + 12.5) / 1.5))
    muon = Gain({"name": "muon", "beta": 0.5, "window": 2})
    assert muon.now([2.0, 2.0], {"window": window}) == pytest.approx(2.0 / math.sqrt(2.0 + 25.0 / 4.0))
    assert muon.now([0.0], {}) == Gain({"name": "hizoo", "smoothing": 0.1}).now([3.0], {}) == 1.0


def test_the_scheduler_scales_what_auto_chooses(landscape) -> None:
    whole, half = (landscape(trace=10.0, stability_auto=True) for _ in range(2))
    for _ in range(40):
        a, b = whole(lr=1.0, halves=(1.0, 1.0)), half(lr=0.5, halves=(1.0, 1.0))
    assert b.lr == 0.5 * a.lr > 0.0


def test_state_goes_into_a_checkpoint_and_back(landscape) -> None:
    import json

    one, two = landscape(stability_auto=True), landscape(stability_auto=True)
    for step in range(57):
        one(lr=1.0, slope=1.0 + step % 3, halves=(1.5, 0.5))
    two.monitor.load_state_dict(json.loads(json.dumps(one.monitor.state_dict())))
    two.step = one.step
    for _ in range(30):
        assert one(lr=1.0, halves=(1.5, 0.5)) == two(lr=1.0, halves=(1.5, 0.5))
    assert one.monitor.metrics() == two.monitor.metrics()


def test_settings_that_cannot_be() -> None:
    with pytest.raises(UsageError, match="stability=report keeps from acting"):
        StabilitySettings(stability="report", stability_auto=True)
    with pytest.raises(UsageError, match="stability_margin must be a positive number"):
        StabilitySettings(stability_margin=0.0)
    with pytest.raises(UsageError, match="not known for zo_rule=nesterov"):
        StabilityMonitor(StabilitySettings(), Surroundings({"name": "nesterov"}, 1, 1e-3, 10, 1.0))
