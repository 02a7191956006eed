"""Every estimator and rule: moments, a dense reference in float64, descent, edges, resume, replay, limits."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.trajectory.runs import Tiny, check_resume_and_replay, make
from tests.trajectory.runs import loss as lm_loss
from zoft.backends import Point
from zoft.directions import DirectionSource, LowRank, draw
from zoft.errors import UsageError
from zoft.estimate import Estimate, Step
from zoft.estimators import ESTIMATORS, Estimator, estimator
from zoft.governor import Decision, Evidence, Request
from zoft.optimizer import ZOOptimizer
from zoft.rules import RULES, rule, spend
from zoft.stability import StabilityMonitor, StabilitySettings, Surroundings, govern
from zoft.stability.spending import normalisation

PLAIN = [name for name in ESTIMATORS if not ESTIMATORS[name].normalised and name != "conservative"]
NORMALISED = [name for name in ESTIMATORS if ESTIMATORS[name].normalised]
Q = 4
FEWEST = {"full_adam": 2, "adamezo": 2}  # directions that a rule needs; the others: 1
SOURCE = DirectionSource(0)
OWN: dict[str, dict[str, Any]] = {  # what a rule needs beside its name
    "hizoo": {"distribution": "gaussian", "rule_settings": {"smoothing": 0.05}},
    "muon": {"form": LowRank("low_rank", 2, 3), "rule_settings": {"window": 4}},
    "adamezo": {"rule_settings": {"window": 5}},
}
BOUND = {"three_point": "hizoo"}  # an estimator that only one rule reads
PAIRS = [
    (how, what, 1 if what == "sign" else Q)
    for how in ESTIMATORS
    for what in RULES
    if (what != "sign" or ESTIMATORS[how].least == 1) and ESTIMATORS[how].curved == RULES[what].curved
]


class Quadratic:
    """L(w) = w'Hw / 2 + b'w with numpy, and estimates of its gradient along given rows of Z [q, d]."""

    def __init__(self, hessian: np.ndarray, linear: np.ndarray | None = None) -> None:
        self.hessian, self.dim = hessian, len(hessian)
        self.linear = np.zeros(self.dim) if linear is None else linear

    def __call__(self, w: np.ndarray) -> float:
        return float(0.5 * w @ self.hessian @ w + self.linear @ w)

    def gradient(self, w: np.ndarray) -> np.ndarray:
        return self.hessian @ w + self.linear

    def losses(self, w: np.ndarray, points: Sequence[Point], z: np.ndarray) -> list[float]:
        return [self(w + sum((t.scale * z[t.direction.index] for t in point), np.zeros(self.dim))) for point in points]

    def estimate(self, made: Estimator, w: np.ndarray, z: np.ndarray, step: int = 0) -> Estimate:
        directions = SOURCE.at(step, len(z))
        return made.estimate(directions, self.losses(w, made.population(directions), z))


def random_quadratic(seed: int, dim: int = 6) -> tuple[Quadratic, np.ndarray]:
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(dim, dim))
    return Quadratic(a @ a.T / dim), rng.normal(size=dim)


def draws(law: str, count: int, q: int, dim: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    normal = rng.normal(size=(count, q, dim))
    return np.sign(normal) if law == "rademacher" else normal


def means(made: Estimator, problem: Quadratic, w: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of g over the draws [count, q, d], and its standard error, per coordinate."""
    found = np.array([problem.estimate(made, w, rows).coefficients @ rows for rows in z])
    return found.mean(0), found.std(0, ddof=1) / math.sqrt(len(z))


@pytest.mark.parametrize("law", ["rademacher", "gaussian"])
@pytest.mark.parametrize("name", PLAIN)
def test_unbiased_on_random_quadratics(name: str, law: str) -> None:
    """The radius is large, so that a bias of the curvature would show. 6 coordinates: 4.5 errors miss once in 20,000 tests."""
    problem, w = random_quadratic(2)
    mean, error = means(estimator(name, eps=0.5), problem, w, draws(law, 3000, Q, problem.dim))
    assert np.all(np.abs(mean - problem.gradient(w)) < 4.5 * error)
    assert np.all(error < 0.1 * np.linalg.norm(problem.gradient(w)))  # the test can see something


def stated(name: str, q: int) -> float:
    """rho of the docstrings: the mean on a linear loss is rho grad L / ||grad L||."""
    gamma = math.gamma
    if name == "es_zscore":
        return math.sqrt(2 / q) * gamma((q + 1) / 2) / gamma(q / 2)
    if name == "es_rank":
        return (2 * (q - 1) / math.sqrt(math.pi) + math.sqrt(2 / math.pi)) / (2 * (2 * q - 1))
    spread = math.sqrt(2 / (q - 1)) * gamma(q / 2) / gamma((q - 1) / 2)
    inverse = math.sqrt((q - 1) / 2) * gamma((q - 2) / 2) / gamma((q - 1) / 2)
    return ((q - 1) * spread + inverse) / q


@pytest.mark.parametrize("q", [1, 4, 8])
@pytest.mark.parametrize("name", NORMALISED)
def test_normalised_estimators_have_the_bias_they_state(name: str, q: int) -> None:
    if q < ESTIMATORS[name].least:
        pytest.skip("refused, see test_too_few_directions")
    slope = np.array([3.0, -1.0, 2.0, 0.5, 0.0])
    made = estimator(name, eps=0.25)
    mean, error = means(made, Quadratic(np.zeros((5, 5)), slope), np.zeros(5), draws("gaussian", 3000, q, 5))
    assert np.all(np.abs(mean - stated(name, q) * slope / np.linalg.norm(slope)) < 4.5 * error)


@pytest.mark.parametrize("eps", [2.0**-10, 0.25, 1.0])
def test_conservative_leaves_out_the_slopes_that_it_says(eps: float) -> None:
    """The mean over all 64 draws of signs, against E[p z; |p| > eps z'Hz / 2]; it shrinks with eps."""
    problem, w = random_quadratic(2)
    made, z = estimator("conservative", eps=eps), np.array(list(itertools.product((-1.0, 1.0), repeat=problem.dim)))
    found = np.mean([problem.estimate(made, w, row[None]).coefficients[0] * row for row in z], axis=0)
    slopes, curvatures = z @ problem.gradient(w), np.einsum("ni,ij,nj->n", z, problem.hessian, z)
    kept = np.abs(slopes) > eps * curvatures / 2
    np.testing.assert_allclose(found, (slopes * kept) @ z / len(z), atol=1e-9)
    lost = np.linalg.norm(found - problem.gradient(w))
    assert lost <= eps * curvatures.max() / 2 * math.sqrt(problem.dim) and (lost > 0.1) == (eps >= 0.25)


@pytest.mark.parametrize("name", NORMALISED)
def test_normalised_estimators_know_no_unit_of_loss(name: str) -> None:
    losses = [float(x) for x in np.random.default_rng(0).normal(size=8)]
    made, other = estimator(name, eps=0.25), estimator(name, eps=0.5)
    scaled = [1024.0 * loss + 3.0 for loss in losses]
    np.testing.assert_allclose(made.coefficients(losses), made.coefficients(scaled), rtol=1e-12, atol=1e-14)
    assert made.coefficients(losses) == other.coefficients(losses)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_flat_losses_move_nothing_and_broken_ones_are_seen(name: str) -> None:
    made = estimator(name, eps=0.5)
    directions = SOURCE.at(0, Q)
    count = len(made.population(directions))
    flat = made.estimate(directions, [0.1] * count)
    assert flat.coefficients == (0.0,) * Q and flat.loss == 0.1 and flat.finite
    for broken in (math.nan, math.inf, -math.inf):
        assert not made.estimate(directions, [0.1] * (count - 1) + [broken]).finite
        assert not made.estimate(directions, [broken] * count).finite


@pytest.mark.parametrize("name", ESTIMATORS)
def test_one_direction_is_the_single_estimate_and_q_average_it(name: str) -> None:
    made = estimator(name, eps=0.5)
    problem, w = random_quadratic(3)
    z = draws("gaussian", 1, Q, problem.dim)[0]
    if made.normalised:
        if made.least == 1:  # two losses have one difference: its sign is all that normalisation leaves
            slope = np.sign(
                estimator("two_point", eps=0.5).slopes(problem.losses(w, made.population(SOURCE.at(0)), z))[0]
            )
            assert problem.estimate(made, w, z[:1]).coefficients == ({"es_zscore": 1.0, "es_rank": 0.5}[name] * slope,)
        return
    singles = [problem.estimate(made, w, z[j : j + 1]).coefficients[0] for j in range(Q)]
    np.testing.assert_allclose(problem.estimate(made, w, z).coefficients, np.array(singles) / Q, rtol=1e-12)


def reference(name: str, losses: np.ndarray, eps: float, q: int) -> np.ndarray:
    """Coefficients from the formulas, in numpy."""
    ends = losses[1:] if name in ("one_sided", "fzoo") else losses[-2 * q :].reshape(q, 2)
    if name == "conservative":
        return np.where(ends.min(1) < losses[0], (ends[:, 0] - ends[:, 1]) / (2 * eps * q), 0.0)
    if name in ("two_point", "three_point"):
        return (ends[:, 0] - ends[:, 1]) / (2 * eps * q)
    if name == "one_sided":
        return (ends - losses[0]) / (eps * q)
    if name == "fzoo":
        return (ends - losses[0]) / (q * np.std(ends, ddof=1))
    fitness = (ends - ends.mean()) / ends.std()
    if name == "es_rank":
        fitness = losses.argsort().argsort().reshape(q, 2) / (2 * q - 1) - 0.5
    return (fitness[:, 0] - fitness[:, 1]) / (2 * q)


@pytest.mark.parametrize("perturbation", ["read_only", "in_place"])
@pytest.mark.parametrize(("how", "what", "q"), PAIRS)
def test_training_is_the_dense_reference(how: str, what: str, q: int, perturbation: str) -> None:
    """Eight steps through ZOOptimizer in float64 against tensors; scalars of rules with a state are float32."""
    module = nn.Linear(4, 3, bias=False, dtype=torch.float64)
    with torch.no_grad():
        module.weight.copy_(torch.linspace(-1.0, 1.0, 12).reshape(3, 4))
    problem, target = random_quadratic(5, 12)[0], np.linspace(0.5, -0.25, 12)
    hessian = torch.from_numpy(problem.hessian)

    def loss() -> torch.Tensor:
        x = module(torch.eye(4, dtype=torch.float64)).T.reshape(-1) - torch.from_numpy(target)
        return 0.5 * x @ hessian @ x

    lr, eps = 0.03, 0.125
    optimizer = ZOOptimizer(
        module,
        lr,
        eps=eps,
        directions=q,
        seed=4,
        estimator=how,
        rule=what,
        perturbation=perturbation,
        **OWN.get(what, {}),
    )
    w = module.weight.detach().numpy().reshape(-1) - target
    m, v, h, past = np.zeros(12), 0.0, np.ones(12), []
    for t in range(1, 9):
        window = optimizer.space.slots[0].window
        z = np.stack([draw(d, window).double().numpy().reshape(-1) for d in optimizer.source.at(t - 1, q)])
        points = optimizer.estimator.population(optimizer.source.at(t - 1, q))
        raw, z = z, z / np.sqrt(h)
        losses = np.array(problem.losses(w, points, z))
        c = reference(how, losses, eps, q)
        if RULES[what].single:
            c, lr = c.astype(np.float32).astype(np.float64), float(np.float32(lr))
        g = c @ z
        if what == "sgd":
            w = w - lr * g
        elif what == "sign":
            w = w - lr * np.sign(g)
        elif what == "momentum":
            m = 0.9 * m + g
            w = w - lr * m
        elif what == "full_adam":
            m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
            w = w - lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.99**t)) + 1e-8)
        elif what == "adamezo":
            past = [g, *past][:5]
            a, b = (np.array([beta**k for k in range(len(past))]) for beta in (0.9, 0.99))
            m, v = (a @ np.array(past)) / a.sum(), (b @ np.square(past)) / b.sum()
            w = w - lr * m / (np.sqrt(v) + 1e-8)
        elif what == "muon":
            past = [g, *past][:4]
            left, sizes, right = np.linalg.svd(sum(0.9**k * g for k, g in enumerate(past)).reshape(3, 4))
            rank = int(np.sum(sizes > 1e-6 * sizes[0]))
            w = w - lr * math.sqrt(12 / rank) * (left[:, :rank] @ right[:rank]).reshape(-1)
        elif what == "hizoo":
            along = ((losses[1:].reshape(q, 2) - losses[0]).sum(1) / eps**2).astype(np.float32).astype(np.float64)
            w, h = w - lr * g, h * (0.95 + 0.05 / (2 * q) * np.abs(along) @ raw**2)
        else:
            m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * np.sum(c * c)
            w = w - lr * (m / (1 - 0.9**t)) / (math.sqrt(v / (1 - 0.99**t)) + 1e-8)
        optimizer.step(loss)
        found = module.weight.detach().numpy().reshape(-1) - target
        # Two neighbours in float32 differ by 6e-8; the rule rounds no product of thin factors, as z here does.
        np.testing.assert_allclose(found, w, rtol=0.0, atol=1e-5 if what == "muon" else 1e-9)
        w = found.copy()  # rounding is not to add up


def descend(
    how: str, what: str, q: int, problem: Quadratic, lr: float, steps: int, radius: float = 1e-3
) -> list[float]:
    """Losses along a run from w = 1, through the optimizer, in float64."""
    module = nn.Linear(problem.dim // 2, 2, bias=False, dtype=torch.float64)
    nn.init.ones_(module.weight)
    eye, found = torch.eye(problem.dim // 2, dtype=torch.float64), []
    own = OWN.get(what, {})
    optimizer = ZOOptimizer(module, lr, eps=radius, directions=q, seed=7, estimator=how, rule=what, **own)
    for _ in range(steps):
        optimizer.step(lambda: problem(module(eye).T.reshape(-1).numpy()))
        found.append(problem(module.weight.detach().numpy().reshape(-1)))
    return found


@pytest.mark.parametrize("condition", [1.0, 1e4])
@pytest.mark.parametrize(("how", "what", "q"), PAIRS)
def test_descent_on_good_and_badly_conditioned_quadratics(how: str, what: str, q: int, condition: float) -> None:
    """A tenth of the edge 2 q / Tr where lr is in units of the gradient, else 0.005 of a weight of 1; half of the loss goes."""
    problem = Quadratic(np.diag(np.geomspace(1.0, 1.0 / condition, 8)))
    normalised = ESTIMATORS[how].normalised
    lr = (
        0.005
        if normalised or what in ("adam", "full_adam", "adamezo", "muon", "sign")
        else 0.2 * q / np.trace(problem.hessian)
    )
    lr *= 0.1 if what == "momentum" else 1.0
    if normalised and what in ("sgd", "momentum"):
        lr /= stated(how, q)  # so that all go equally far
    losses = descend(how, what, q, problem, lr, 400)
    assert losses[-1] < 0.5 * problem(np.ones(8))


@pytest.mark.parametrize("name", PLAIN)
def test_the_critical_step_size_is_the_two_point_one(name: str) -> None:
    """H = h I, signs: E||w - eta g||^2 = ||w||^2 (1 - 2 eta h + eta^2 h^2 (d + q - 1) / q) + what does not depend on w.

    So eta* = 2 q / (h (d + q - 1)); measured as 2 E[w'g(w)] / (E||g(w)||^2 - E||g(0)||^2). Draws come with their
    negatives, which makes odd terms vanish exactly, so the measurement's error is that of the rest.
    """
    h, dim = 0.75, 12
    problem, w = Quadratic(h * np.eye(dim)), np.linspace(-1.0, 2.0, 12)
    made, half = estimator(name, eps=0.5), draws("rademacher", 1500, Q, dim)
    first, second = [], []
    for rows in half:
        for z in (rows, -rows):
            g, still = (problem.estimate(made, at, z).coefficients @ z for at in (w, np.zeros(dim)))
            first.append(w @ g)
            second.append(g @ g - still @ still)
    first, second = np.reshape(first, (-1, 2)).mean(1), np.reshape(second, (-1, 2)).mean(1)
    critical = 2 * first.mean() / second.mean()
    spread = (first / first.mean() - second / second.mean()).std(ddof=1) / math.sqrt(len(half))
    assert abs(critical / (2 * Q / (h * (dim + Q - 1))) - 1) < 4 * spread < 0.1


def test_sign_descent_settles_where_lr_is_at_the_edge() -> None:
    """E|p| = lr Tr / 2 on any quadratic with signs and diagonal H, up to (L_first - L_last) / (lr steps)."""
    problem, lr, steps = Quadratic(np.diag(np.linspace(0.5, 2.0, 10))), 0.05, 3000
    w, rng, sizes = np.full(10, 0.1), np.random.default_rng(0), []
    first = problem(w)
    made, spender = estimator("two_point", eps=0.25), rule("sign")
    for t in range(steps):
        z = np.sign(rng.normal(size=(1, 10)))
        estimate = problem.estimate(made, w, z, t)
        sizes.append(abs(estimate.coefficients[0]))
        move, _ = spend(spender, {}, Step(t, estimate, lr))
        assert move is not None
        w = w + move.terms[0].scale * z[0]
    trace = float(np.trace(problem.hessian))
    assert np.mean(sizes) == pytest.approx(lr * trace / 2, abs=abs(first - problem(w)) / (lr * steps) + 1e-6)
    gain = 1.0 / float(np.mean(sizes))
    assert lr * gain * trace / 2 == pytest.approx(1.0, rel=0.02)


class Watching:
    """A governor that keeps what it is shown."""

    def __init__(self) -> None:
        self.seen: list[Evidence] = []

    def request(self, step: int) -> Request:
        return Request()

    def decide(self, evidence: Evidence) -> Decision:
        self.seen.append(evidence)
        return Decision(evidence.lr)


def test_the_monitor_sees_slopes_whatever_is_spent() -> None:
    """Slopes are in units of the loss for every estimator, and what was spent says how far it went: eps / spread."""
    seen = {}
    for name in ESTIMATORS:
        what = BOUND.get(name, "sgd")
        optimizer = make(Tiny(torch.float64), estimator=name, directions=Q, eps=2.0**-6, rule=what, **OWN.get(what, {}))
        optimizer.governor = Watching()  # type: ignore[assignment]
        optimizer.step(lambda model=optimizer.model: lm_loss(model, 0).double())
        seen[name] = optimizer.governor.seen[0]  # type: ignore[attr-defined]
        assert optimizer.last is not None
        coefficients = [c * Q for c in optimizer.last.estimate.coefficients]
        assert seen[name].spent == (tuple(coefficients) if ESTIMATORS[name].normalised else ())
        assert bool(seen[name].pairs) == (name not in ("one_sided", "fzoo", "conservative", "three_point"))
    assert seen["two_point"].slopes == seen["es_zscore"].slopes == seen["es_rank"].slopes
    assert seen["one_sided"].slopes == seen["fzoo"].slopes != seen["two_point"].slopes
    for name in ("fzoo", "es_zscore"):
        slopes, spent = seen[name].slopes, seen[name].spent
        gain = normalisation(spent, slopes)
        np.testing.assert_allclose(np.array(slopes) * gain, spent, rtol=1e-9)
        if name == "fzoo":
            assert gain == pytest.approx(1.0 / np.std(slopes, ddof=1), rel=1e-6)
        else:
            pairs = np.array(seen[name].pairs)
            assert gain == pytest.approx(2.0**-6 / pairs.std(), rel=1e-6)
    assert normalisation(seen["es_rank"].spent, seen["es_rank"].slopes) > 0.0


def test_curvature_in_one_sided_slopes_is_no_signal() -> None:
    """At a minimum both halves of the batch have the slope (eps / 2) Tr; taken for a gradient it would lift the cap."""
    signals = []
    for lean in (0.0, 0.25):
        around = Surroundings({"name": "sgd"}, 1, 0.5, elements=100, weights_norm=50.0, forwards=2, lean=lean)
        monitor = StabilityMonitor(StabilitySettings(stability_every=1, stability_loss_noise=0.0), around)
        for step in range(40):
            points = [1.0 + 0.5 * 8.0 * sum(s for _, s in point) ** 2 for point in monitor.request(step).points]
            evidence = Evidence(step, 0.01, 1.0, (2.0,), ((2.0,), (2.0,)), points=tuple(points))
            monitor.decide(evidence)
        assert monitor.curvature.pessimistic(0.0) == pytest.approx(8.0)
        signals.append(monitor.signal.read()[0])
    assert signals[0] == pytest.approx(1.0) and signals[1] < 0.05


@pytest.mark.parametrize(("how", "what", "q"), PAIRS)
def test_capped_runs_survive_an_absurd_learning_rate(how: str, what: str, q: int) -> None:
    """Whatever an estimator and a rule make of a learning rate of 1e3, the monitor holds it to what descends."""
    module = nn.Linear(8, 6, bias=False)
    scale = torch.linspace(0.5, 1.5, 48).reshape(6, 8)
    with torch.no_grad():
        module.weight.copy_(torch.randn(6, 8, generator=torch.Generator().manual_seed(0)))
    eye = torch.eye(8)
    optimizer = ZOOptimizer(module, 1e3, eps=2.0**-6, directions=q, estimator=how, rule=what, **OWN.get(what, {}))
    settings = StabilitySettings(stability="cap", stability_drift=None, stability_every=2)
    govern(optimizer, replace(settings, guard="off"))
    losses = [optimizer.step(lambda: (scale * module(eye).T.square()).sum(1).double() / 2) for _ in range(40)]
    assert optimizer.governor is not None and optimizer.last is not None and optimizer.last.flags.name == "CAPPED"
    assert max(losses) < 1.5 * losses[0] and losses[-1] < losses[0]  # type: ignore[operator]


@pytest.mark.parametrize(
    ("how", "what", "q"),
    [(e, BOUND.get(e, "sgd"), Q) for e in ESTIMATORS]
    + [("two_point", r, FEWEST.get(r, 1)) for r in RULES if not RULES[r].curved],
)
def test_descent_on_a_tiny_language_model(how: str, what: str, q: int) -> None:
    """Weights four times as large as Tiny's, which begins on a plateau. The loss loses a tenth (it loses a fifth or more)."""
    optimizer = make(Tiny(), estimator=how, rule=what, directions=q, **OWN.get(what, {}))
    with torch.no_grad():
        for weight in optimizer.model.parameters():
            weight.mul_(4.0)
    lr = 0.001 if what == "momentum" else 0.01
    optimizer.param_groups[0]["lr"] = lr / stated(how, q) if ESTIMATORS[how].normalised else lr  # all go equally far
    losses = [optimizer.step(lambda: lm_loss(optimizer.model, 0)) for _ in range(100)]
    assert losses[-1] < 0.9 * losses[0]  # type: ignore[operator]


@pytest.mark.parametrize("perturbation", ["read_only", "in_place"])
@pytest.mark.parametrize(("how", "what", "q"), PAIRS)
def test_resume_and_replay_are_exact(how: str, what: str, q: int, perturbation: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"estimator": how, "rule": what, "directions": q, "perturbation": perturbation}
    settings |= OWN.get(what, {})
    state = check_resume_and_replay(tmp_path, stop=5, resume_at=3, **settings)
    changes: dict[str, Any] = {"estimator": "one_sided" if how != "one_sided" else "two_point"}
    if RULES[what].curved:
        changes |= {"rule": "sgd", "rule_settings": {}}
    other = make(Tiny(), **{**settings, **changes})
    with pytest.raises(UsageError, match="trained with estimator"):
        other.load_state_dict(state)


@pytest.mark.parametrize("how", ESTIMATORS)
def test_momentum_zero_is_sgd(how: str) -> None:
    """And hizoo whose curvatures stay at 1, with three points in the place of two."""
    ends = []
    curved = ESTIMATORS[how].curved
    for what, own in (("sgd", {}), ("hizoo", {"smoothing": 0.0}) if curved else ("momentum", {"beta": 0.0})):
        made, law = "two_point" if curved and what == "sgd" else how, "gaussian" if curved else "rademacher"
        optimizer = make(Tiny(), estimator=made, rule=what, rule_settings=own, directions=Q, distribution=law)
        optimizer.param_groups[0]["lr"] = 2.0**-6  # so that rounding scalars to float32 first changes nothing
        for step in range(4):
            optimizer.step(lambda step=step, model=optimizer.model: lm_loss(model, step))
        ends.append(torch.cat([slot.weight.detach().reshape(-1) for slot in optimizer.space.slots]))
    torch.testing.assert_close(ends[0], ends[1], rtol=0.0, atol=2.0**-22)


def test_too_few_directions_and_unsigned_directions_are_refused() -> None:
    with pytest.raises(UsageError, match="zo_directions=3 or more"):
        make(Tiny(), estimator="fzoo", directions=2)
    for settings in ({"directions": 2}, {"distribution": "gaussian"}):
        with pytest.raises(UsageError, match="zo_rule=sign needs zo_directions=1"):
            make(Tiny(), rule="sign", **settings)
    for name in FEWEST:
        with pytest.raises(UsageError, match=f"zo_rule={name} .* take zo_rule=adam"):
            make(Tiny(), rule=name)
        assert make(Tiny(), rule=name, distribution="gaussian").directions == 1
    with pytest.raises(UsageError, match="there are: two_point, three_point"):
        estimator("spsa", eps=1.0)
