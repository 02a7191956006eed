"""Monitor and guard on a real optimizer: they see more losses, and without a cap change nothing else."""

import math

import pytest
import torch
from torch import nn

from zoft.backends import Term
from zoft.directions import Blocks, RandomMask, SmallWeights
from zoft.errors import UsageError
from zoft.estimate import Flag
from zoft.governor import Decision, Request
from zoft.optimizer import ZOOptimizer
from zoft.stability import StabilitySettings, govern


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))


DATA = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))


def losses(model: nn.Module, rows: slice = slice(0, 16)) -> torch.Tensor:
    """Squared errors of the examples [B]."""
    return (model(DATA[rows]).squeeze(-1) - DATA[rows].sum(-1)).square()


def trained(steps: int = 30, lr: float = 0.01, perturbation: str = "read_only", scalar: bool = False, **settings):
    model = network()
    optimizer = ZOOptimizer(model, lr=lr, perturbation=perturbation)
    if settings:
        govern(optimizer, StabilitySettings(**settings))
    done = []
    optimizer.observers.append(done.append)
    for step in range(steps):
        rows = slice(16 * (step % 4), 16 * (step % 4) + 16)
        optimizer.step(lambda: losses(model, rows).mean() if scalar else losses(model, rows))  # noqa: B023
    return optimizer, done


@pytest.mark.parametrize("perturbation", ["read_only", "in_place"])
@pytest.mark.parametrize("probes", [0, 2])
def test_without_capping_the_path_is_bitwise_unchanged(perturbation, probes) -> None:
    plain, steps = trained(perturbation=perturbation)
    watched, seen = trained(
        perturbation=perturbation, stability="report", stability_every=2, stability_probes=probes, guard="off"
    )
    assert watched.governor.monitor.curvature.forwards > 15
    assert steps == seen and watched.space.fingerprint() == plain.space.fingerprint()


def test_a_cap_that_does_not_bind_changes_nothing() -> None:
    plain, _ = trained(lr=1e-5)
    capped, steps = trained(lr=1e-5, stability="cap")
    assert not any(step.flags for step in steps) and capped.space.fingerprint() == plain.space.fingerprint()


def test_a_cap_is_in_the_step_that_is_logged() -> None:
    optimizer, steps = trained(lr=5.0, stability="cap", guard="off")
    monitor = optimizer.governor.monitor
    assert all(step.flags == Flag.CAPPED and step.lr < 5.0 for step in steps)
    assert steps[-1].lr == monitor.lr_used == monitor.metrics()["stability/lr_used"]
    assert math.isfinite(steps[-1].estimate.loss)
    replayed = network()
    again = ZOOptimizer(replayed, lr=0.0)
    for step in steps:
        again.apply(step)
    assert again.space.fingerprint() == optimizer.space.fingerprint()


def test_losses_of_examples_give_their_exact_mean_and_two_halves() -> None:
    model = network()
    optimizer = ZOOptimizer(model, lr=0.01)
    seen = []

    class Watch:
        def request(self, step):
            return Request()

        def decide(self, evidence):
            seen.append(evidence)
            return Decision(evidence.lr)

    optimizer.governor = Watch()  # type: ignore[assignment]
    optimizer.step(lambda: losses(model))
    (evidence,) = seen
    ends = []
    fresh = network()
    view = ZOOptimizer(fresh, lr=0.0).perturbation
    (direction,) = optimizer.source.at(0)
    with torch.no_grad():
        for sign in (1.0, -1.0):
            point = (Term(direction, sign * evidence.eps),)
            ends += view.losses([point], lambda: losses(fresh).tolist())
    for half, start in zip(evidence.halves, (0, 1), strict=True):
        plus, minus = (math.fsum(values[start::2]) / 8 for values in ends)
        assert half == ((plus - minus) / (2 * evidence.eps),)
    assert evidence.pairs == (tuple(math.fsum(values) / 16 for values in ends),)
    assert evidence.slopes == pytest.approx([sum(half[0] for half in evidence.halves) / 2], rel=1e-9)


def test_micro_batches_are_halves_where_losses_are_scalars() -> None:
    seen = []
    for parts in ([slice(0, 8), slice(8, 16)], [slice(0, 16)]):
        optimizer = ZOOptimizer(network(), lr=0.01)
        govern(optimizer, StabilitySettings(stability="report", guard="off"))
        decide = optimizer.governor.decide
        optimizer.governor.decide = lambda evidence, decide=decide: (seen.append(evidence), decide(evidence))[1]
        for rows in parts:
            optimizer.accumulate(lambda rows=rows, o=optimizer: losses(o.model, rows).mean(), len(parts))
        optimizer.step()
    accumulated, whole = seen
    assert whole.halves is None and accumulated.halves is not None
    assert accumulated.slopes[0] == pytest.approx(whole.slopes[0], rel=1e-3)
    assert sum(half[0] for half in accumulated.halves) / 2 == pytest.approx(accumulated.slopes[0], rel=1e-9)


def test_resuming_resumes_the_monitor() -> None:
    settings = {"stability": "cap", "stability_every": 3, "guard": "skip"}
    whole, _ = trained(steps=30, lr=1.0, **settings)
    first, _ = trained(steps=15, lr=1.0, **settings)
    model = network()
    second = ZOOptimizer(model, lr=1.0)
    govern(second, StabilitySettings(**settings))
    with torch.no_grad():
        for mine, theirs in zip(model.parameters(), first.model.parameters(), strict=True):
            mine.copy_(theirs)
    second.load_state_dict(first.state_dict())
    for step in range(15, 30):
        rows = slice(16 * (step % 4), 16 * (step % 4) + 16)
        second.step(lambda: losses(model, rows))  # noqa: B023
    assert second.space.fingerprint() == whole.space.fingerprint()
    assert second.governor.metrics() == whole.governor.metrics()


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e6])
def test_the_guard_skips_a_step_whose_loss_jumps(bad) -> None:
    model = network()
    optimizer = ZOOptimizer(model, lr=0.01)
    govern(optimizer, StabilitySettings())
    for step in range(40):
        before = optimizer.space.fingerprint()
        extra = bad if step == 30 else 0.0
        optimizer.step(lambda: losses(model).mean() + extra)  # noqa: B023
        refused = bool(optimizer.last.flags & Flag.GUARDED)
        assert refused == (step == 30) and (optimizer.space.fingerprint() == before) == refused
    assert optimizer.governor.metrics()["stability/guarded"] == 1 == optimizer.skipped


@pytest.mark.parametrize("kept", [True, False])
def test_a_rewind_takes_the_monitor_back_and_what_was_spent_stays_spent(kept) -> None:
    """To the step itself where it is recent, else to the last place that was kept before it."""
    model = network()
    optimizer = ZOOptimizer(model, lr=0.05, rule="adam")
    steering = govern(optimizer, StabilitySettings(guard="rewind", stability_every=4), may_rewind=True)
    states = []
    for step in range(150):
        states.append((steering.monitor.state_dict(), optimizer.rule_state))
        if kept and step == 10:
            steering.keep(10)
        optimizer.step(lambda: losses(model) * (1.0 + 0.01 * max(0, step - 100)))  # noqa: B023
    monitor, target, source = steering.monitor, *((12, 10) if kept else (130, 130))
    forwards = monitor.curvature.forwards
    optimizer.steps, optimizer.rule_state = target, states[target][1]
    steering.rewound(target)
    now, then = monitor.state_dict(), states[source][0]
    for name in ("noise_paid", "drift", "signal", "own"):
        assert now[name] == then[name]
    assert now["curvature"]["kept"] == then["curvature"]["kept"] and now["curvature"]["next"][0] <= source + 4
    assert now["steps"] == 150 and monitor.curvature.forwards == forwards and steering.scale == 0.5
    optimizer.step(lambda: losses(model))
    (p,) = optimizer.last.estimate.coefficients
    v = 0.99 * states[target][1]["v"] + 0.01 * p * p
    root = math.sqrt(v / (1.0 - 0.99 ** (states[target][1]["spent"] + 1)))
    assert monitor._gain == pytest.approx(1.0 / (root + 1e-8), rel=1e-6)


def test_a_head_of_zeros_learns_under_the_default_bounds() -> None:
    model = nn.Linear(6, 1)
    for weight in model.parameters():
        nn.init.zeros_(weight)
    optimizer = ZOOptimizer(model, lr=0.02)
    govern(optimizer, StabilitySettings())
    first = optimizer.step(lambda: losses(model, slice(0, 64)))
    for _ in range(300):
        last = optimizer.step(lambda: losses(model, slice(0, 64)))
    assert last < 0.5 * first


def test_auto_needs_a_rate_to_measure_the_schedule_by() -> None:
    with pytest.raises(UsageError, match=r"must be positive and is 0\.0"):
        govern(ZOOptimizer(network(), lr=0.0), StabilitySettings(stability_auto=True))


def test_the_guard_wants_a_rewind_when_jumps_persist_and_otherwise_accepts_a_new_level() -> None:
    for may_rewind in (True, False):
        model = network()
        optimizer = ZOOptimizer(model, lr=1e-4)
        steering = govern(optimizer, StabilitySettings(guard="rewind", guard_patience=4), may_rewind=may_rewind)
        flags = []
        for step in range(40):
            optimizer.step(lambda: losses(model).mean() + (100.0 if step >= 30 else 0.0))  # noqa: B023
            flags.append(bool(optimizer.last.flags & Flag.GUARDED))
            if steering.rewind_wanted:
                break
        assert not any(flags[:30]) and all(flags[30:34])
        assert steering.rewind_wanted == may_rewind and len(flags) == (34 if may_rewind else 40)
        assert may_rewind or not any(flags[34:])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("ways", "expected"),
    [
        ({}, 65),
        ({"blocks": Blocks(2, "random")}, None),  # 56 or 9: what is expected is what moves
        ({"form": SmallWeights(0.75)}, None),
        ({"form": RandomMask(0.75)}, 48 / 4 + 8 + 8 / 4 + 1),
        ({"form": RandomMask(0.75), "blocks": Blocks(2)}, 48 / 4 + 8),
    ],
)
def test_the_drift_bound_counts_the_weights_that_a_step_moves(ways, expected, seed) -> None:
    """Of one direction of signs, n weights go |lr p| sqrt(n): share x ||w_0|| where n is what the bound counts."""
    model = network().double()
    optimizer = ZOOptimizer(model, lr=1e3, seed=seed, **ways)
    start = torch.cat([weight.detach().flatten() for weight in model.parameters()])
    only_drift = StabilitySettings(
        stability_margin=None, stability_descent_margin=None, stability_drift=0.01, guard="off"
    )
    steering = govern(optimizer, only_drift)
    optimizer.step(lambda: (model(DATA.double()).squeeze(-1) - DATA.sum(-1)).square().mean())
    walked = torch.cat([weight.detach().flatten() for weight in model.parameters()]) - start
    moved = int(walked.count_nonzero())
    assert moved < 65 or not ways
    drawn = 1.0 if expected is None else math.sqrt(moved / expected)  # a random mask lets more or fewer through
    assert steering.monitor.bound == "drift"
    assert float(walked.norm() / start.norm()) == pytest.approx(0.01 * drawn, rel=1e-9)
    assert steering.monitor.drift == pytest.approx(0.01)
