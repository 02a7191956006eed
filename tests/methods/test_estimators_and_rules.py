"""Every estimator and rule: moments, a dense reference in float64, descent, edges, resume, replay, limits."""

from __future__ import annotations

import copy
import functools
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

from tests.trajectory.runs import Tiny, check_resume_and_replay, make, steep_losses
from tests.trajectory.runs import loss as lm_loss
from zoft.backends import Point
from zoft.directions import (
    Blocks,
    Direction,
    DirectionSource,
    LowRank,
    RandomMask,
    SmallWeights,
    Window,
    draw,
    draw_rows,
    sees,
)
from zoft.directions.blocks import block_numbers
from zoft.directions.mask import kept
from zoft.errors import UsageError
from zoft.estimate import Estimate, Step
from zoft.estimators import ESTIMATORS, Estimator, estimator
from zoft.governor import Decision, Evidence, Request
from zoft.optimizer import ZOOptimizer
from zoft.rules import RULES, rule, spend
from zoft.schedule import Schedule
from zoft.stability import StabilityMonitor, StabilitySettings, Surroundings, govern
from zoft.stability.spending import normalisation
from zoft.stability.theory import critical_lr
from zoft.trainer.settings import ZOSettings

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


def measured_critical(groups: Sequence[np.ndarray]) -> float:
    """The step size at which E||w_t||^2 begins to grow, where step t applies I - eta G with G from groups[t mod n] [n, d, d].

    From the matrix of second moments, prod_t E[(I - eta G) x (I - eta G)], whose spectral radius crosses 1 there.
    """
    dim = groups[0].shape[1]
    eye = np.eye(dim)
    firsts = [group.mean(0) for group in groups]
    seconds = [np.einsum("nij,nkl->ikjl", g, g).reshape(dim * dim, -1) / len(g) for g in groups]

    def radius(eta: float) -> float:
        whole = np.eye(dim * dim)
        for first, second in zip(firsts, seconds, strict=True):
            whole = (np.eye(dim * dim) - eta * (np.kron(first, eye) + np.kron(eye, first)) + eta**2 * second) @ whole
        return float(np.abs(np.linalg.eigvals(whole)).max())

    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if radius(middle) < 1.0 else (low, middle)
    return low


@pytest.mark.parametrize("q", [1, 3])
@pytest.mark.parametrize(
    ("name", "law"),
    [("two_point", "gaussian"), ("one_sided", "gaussian"), ("two_point", "sphere"), ("two_point", "rademacher"),
     ("two_point", "blocks"), ("two_point", "mask")],
)  # fmt: skip
def test_the_critical_step_size_measured_on_random_quadratics(name: str, law: str, q: int) -> None:
    """Against (5) and what (E7) makes of it for other laws; signs: for a diagonal H, where there is a closed form.

    Blocks in turn: H couples none, and the first to grow counts. A mask that stays: (5) of the part that moves.
    """
    rng = np.random.default_rng(5 + q)
    dim, count = 4, 4000
    hessian = random_quadratic(7 + q, dim)[0].hessian
    if law == "rademacher":
        hessian = np.diag(np.linalg.eigvalsh(hessian))
    inside = [np.ones(dim, bool)]
    if law == "blocks":
        inside = [np.arange(dim) < 2, np.arange(dim) >= 2]
        hessian = hessian * (np.outer(inside[0], inside[0]) | np.outer(inside[1], inside[1]))
    if law == "mask":
        inside = [np.arange(dim) != 1]
    made, problem, groups = estimator(name, eps=0.5), Quadratic(hessian), []
    for block in inside:
        found = np.zeros((count, dim, dim))
        for one in found:
            z = rng.normal(size=(q, dim)) * block
            if law == "sphere":
                z *= math.sqrt(dim) / np.linalg.norm(z, axis=1, keepdims=True)
            if law == "rademacher":
                z = np.sign(z)
            still = problem.estimate(made, np.zeros(dim), z).coefficients @ z
            for i in np.flatnonzero(block):
                one[:, i] = problem.estimate(made, np.eye(dim)[i], z).coefficients @ z - still
        groups.append(found[:, block][:, :, block] if law == "mask" else found)
    exact: dict[str, Any] = {
        "rademacher": {"distribution": "rademacher_diagonal"},
        "sphere": {"distribution": "sphere", "dimension": dim},
    }
    spectra = [np.linalg.eigvalsh(hessian[np.ix_(block, block)]).tolist() for block in inside]
    wanted = min(critical_lr(spectrum, directions=q, **exact.get(law, {})) for spectrum in spectra)
    whole = measured_critical(groups)
    folds = [measured_critical([np.delete(g, np.s_[k::10], axis=0) for g in groups]) for k in range(10)]
    error = math.sqrt(0.9 * sum((fold - np.mean(folds)) ** 2 for fold in folds))  # jackknife
    assert abs(whole - wanted) < 6.0 * error + 1e-9 < 0.5 * wanted  # of ten folds the error is itself rough


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
        plain = name == "conservative" or not ESTIMATORS[name].normalised
        assert seen[name].spent == (() if plain else tuple(coefficients))  # nothing was left out of it here
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


def test_what_conservative_leaves_out_is_not_counted_as_spent() -> None:
    """Adam's second moment is of the coefficients, and so is the gain by which the monitor compares its rate with the edge."""
    module = nn.Linear(6, 6, bias=False, dtype=torch.float64)
    eye = torch.eye(6, dtype=torch.float64)
    optimizer = ZOOptimizer(module, 1e-3, eps=0.03, directions=Q, estimator="conservative", rule="adam")
    steering = govern(optimizer, StabilitySettings(stability="report", guard="off"))
    assert steering is not None and steering.monitor is not None
    left_out = 0
    for _ in range(20):
        optimizer.step(lambda: module(eye).square().sum())
        assert optimizer.last is not None
        coefficients, state = optimizer.last.estimate.coefficients, optimizer.rule_state
        left_out += coefficients.count(0.0)
        root = math.sqrt(state["v"] / (1 - 0.99 ** state["spent"]))
        if any(coefficients):
            assert steering.monitor._gain == pytest.approx(1 / (root + 1e-8), rel=1e-5)
    assert 0 < left_out < 20 * Q


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
    lr = 0.001 if what == "momentum" else 0.01
    lr = lr / stated(how, q) if ESTIMATORS[how].normalised else lr  # all go equally far
    losses = steep_losses(optimizer, lr, 100)
    assert losses[-1] < 0.9 * losses[0]


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


WAYS: dict[str, dict[str, Any]] = {  # of moving less than everything
    "cyclic blocks": {"blocks": Blocks(3)},
    "random blocks": {"blocks": Blocks(2, "random")},
    "random mask": {"form": RandomMask(0.5, 2)},
    "small weights": {"form": SmallWeights(0.5)},
    "small weights of blocks": {"form": SmallWeights(0.25), "blocks": Blocks(2)},
}


def skip_what_is_refused(way: str, perturbation: str) -> None:
    if "small" in way and perturbation == "in_place":
        pytest.skip("refused, see test_masks_that_cannot_be_had")


def layers(dtype: torch.dtype = torch.float64) -> nn.Module:
    """Three layers, so that there is something to divide; 46 weights."""
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2), nn.Tanh(), nn.Linear(2, 3))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(0.5 * torch.randn(weight.shape, generator=generator))
    return model.to(dtype)


INPUTS = torch.randn(8, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def bowl(model: nn.Module, weights: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
    """A loss of the layers."""
    x = INPUTS.to(next(model.parameters()).dtype)
    y = model(x) if weights is None else torch.func.functional_call(model, weights, (x,))
    return (y - 1.0).double().square().mean()


def dense_z(
    optimizer: ZOOptimizer, direction: Direction, weights: dict[str, torch.Tensor], first: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """z as tensors, from dense draws and the definitions of what is left out."""
    found, form, blocks = {}, direction.form, optimizer.source.blocks
    units = list(dict.fromkeys(slot.name.split(".")[0] for slot in optimizer.space.slots))
    for slot in optimizer.space.slots:
        w = weights[slot.name]
        z = draw(replace(direction, form=None, block=None), slot.window).to(w.dtype).view(w.shape)
        if blocks is not None:
            z = z * float(units.index(slot.name.split(".")[0]) * blocks.count // 3 == direction.block)
        if isinstance(form, RandomMask) and w.ndim == 2:
            z = z * kept(direction, slot.window, w.device)
        if isinstance(form, SmallWeights) and w.ndim == 2:
            sizes = sorted(first[slot.name].abs().reshape(-1).tolist())
            z = z * (w.abs() <= sizes[math.ceil(form.density * len(sizes)) - 1])
        found[slot.name] = z
    return found


@pytest.mark.parametrize("perturbation", ["read_only", "in_place"])
@pytest.mark.parametrize("way", WAYS)
def test_ways_are_the_dense_reference(way: str, perturbation: str) -> None:
    """Seven steps in float64 against tensors; what z leaves out keeps its bits."""
    skip_what_is_refused(way, perturbation)
    model = layers()
    optimizer = ZOOptimizer(model, 0.05, eps=0.125, directions=2, seed=4, perturbation=perturbation, **WAYS[way])
    first = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    w = {**first}
    for step in range(7):
        total = {name: torch.zeros_like(weight) for name, weight in w.items()}
        moved = {name: torch.zeros(weight.shape, dtype=torch.bool) for name, weight in w.items()}
        for direction in optimizer.source.at(step, 2):
            z = dense_z(optimizer, direction, w, first)
            plus, minus = (bowl(model, {n: w[n] + s * z[n] for n in w}) for s in (0.125, -0.125))
            for name in w:
                total[name] += float(plus - minus) / 0.25 / 2 * z[name]
                moved[name] |= z[name] != 0.0
        assert 0 < sum(int(m.sum()) for m in moved.values()) < sum(m.numel() for m in moved.values())
        before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        optimizer.step(lambda: bowl(model))
        for name, weight in model.named_parameters():
            w[name] = w[name] - 0.05 * total[name]
            torch.testing.assert_close(weight.detach(), w[name], rtol=0.0, atol=1e-12)
            assert torch.equal(weight[~moved[name]], before[name][~moved[name]])
            w[name] = weight.detach().clone()


@pytest.mark.parametrize("perturbation", ["read_only", "in_place"])
@pytest.mark.parametrize("what", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("way", WAYS)
def test_ways_resume_and_replay_exactly(way: str, what: str, perturbation: str, tmp_path: Path) -> None:
    skip_what_is_refused(way, perturbation)
    settings: dict[str, Any] = {**WAYS[way], "rule": what, "directions": 2, "perturbation": perturbation}
    state = check_resume_and_replay(tmp_path, stop=7, resume_at=4, **settings)
    with pytest.raises(UsageError, match="trained with"):
        make(Tiny(), **{**settings, **dict.fromkeys(WAYS[way])}).load_state_dict(state)


class Shown(nn.Module):
    """Gives a function the weights of the linear layers of `inner`, as their modules show them."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        for place, layer in enumerate(layer for layer in inner.children() if isinstance(layer, nn.Linear)):
            self.add_module(str(place), Reader(layer))

    def forward(self, function: Any) -> torch.Tensor:
        return function([weight for reader in self.children() for weight in reader()])


class Reader(nn.Module):
    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self) -> list[torch.Tensor]:
        return [self.weight.clone(), self.bias.clone()]


@pytest.mark.parametrize("way", WAYS)
def test_ways_descend(way: str) -> None:
    """A tiny language model, and quadratics in layers of which one is a thousand times flatter."""
    optimizer = make(Tiny(), directions=Q, **WAYS[way])
    losses = steep_losses(optimizer, 0.01, 150)
    assert losses[-1] < 0.9 * losses[0]
    for condition in (1.0, 1e3):
        scales = torch.logspace(0.0, -math.log10(condition), 6, dtype=torch.float64)

        def quadratic(weights: list[torch.Tensor], scales: torch.Tensor = scales) -> torch.Tensor:
            return torch.stack([(s * w.square()).sum() for s, w in zip(scales, weights, strict=True)]).sum() / 2

        optimizer = ZOOptimizer(Shown(layers()), 0.05, directions=Q, **WAYS[way])
        losses = [optimizer.step(functools.partial(optimizer.model, quadratic)) for _ in range(100)]
        assert losses[-1] < (0.98 if "small" in way else 0.9) * losses[0]  # type: ignore[operator]


@pytest.mark.parametrize("order", ["cyclic", "random"])
def test_blocks_are_unbiased_for_their_own_gradient(order: str) -> None:
    """Over many steps the mean of g is 1/n of the gradient, within errors; in a step it has nothing outside its block."""
    model, n = layers(), 3
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(bowl(model), list(model.parameters()))])
    optimizer = ZOOptimizer(model, 0.0, eps=2.0**-12, blocks=Blocks(n, order), perturbation="in_place")
    found = []
    for _ in range(3000):
        optimizer.step(lambda: bowl(model))
        assert optimizer.last is not None
        (direction,), (c,) = optimizer.last.estimate.directions, optimizer.last.estimate.coefficients
        z = [draw(direction, slot.window).reshape(-1) for slot in optimizer.space.slots]
        assert sum(bool(part.any()) for part in z) == 2
        found.append(c * torch.cat(z).double())
    g = torch.stack(found)
    error = g.std(0) / math.sqrt(len(g))
    assert bool(((g.mean(0) - gradient / n).abs() < 4.5 * error + 1e-6).all())
    assert float(error.max()) < 0.1 * float(gradient.norm())


def test_the_critical_step_size_of_blocks_is_that_of_the_largest() -> None:
    """H = h I, signs: of the block that moves ||w - eta g||^2 changes as that of d' weights does, 2 q / (h (d' + q - 1))."""
    h, dim, block = 0.75, 24, 8
    problem, w = Quadratic(h * np.eye(dim)), np.linspace(-1.0, 2.0, dim)
    made, first, second = estimator("two_point", eps=0.5), [], []
    for step, rows in enumerate(draws("rademacher", 3000, Q, dim)):
        inside = np.arange(dim) // block == step % 3
        z = rows * inside
        g = problem.estimate(made, w, z).coefficients @ z
        first.append(w @ g)
        second.append(g @ g)
    first, second = np.reshape(first, (-1, 3)).mean(1), np.reshape(second, (-1, 3)).mean(1)
    critical = 2 * first.mean() / second.mean()
    spread = (first / first.mean() - second / second.mean()).std(ddof=1) / math.sqrt(len(first))
    assert abs(critical / (2 * Q / (h * (block + Q - 1))) - 1) < 4 * spread < 0.1


def test_the_monitor_bounds_each_block_by_its_own_trace() -> None:
    """Layers with curvatures 1, 10 and 100: the cap follows the block that moves, from its first step on."""
    scales = (1.0, 1.0, 10.0, 10.0, 100.0, 100.0)

    def quadratic(weights: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack([(s * w.square()).sum() for s, w in zip(scales, weights, strict=True)]).sum() / 2

    model = Shown(layers())
    optimizer = ZOOptimizer(model, 1e3, eps=2.0**-6, blocks=Blocks(3))
    start = model(quadratic).item()
    steering = govern(optimizer, StabilitySettings(stability_drift=None, stability_descent_margin=None, guard="off"))
    assert steering is not None and steering.monitor is not None
    monitor = steering.monitor
    assert monitor.around.sizes == (25, 12, 9)
    for step in range(60):
        optimizer.step(lambda: model(quadratic))
        trace = (25.0, 120.0, 900.0)[step % 3]
        assert optimizer.last is not None
        assert optimizer.last.lr <= 0.5 * 2.0 / trace * (1 + 1e-6)
        if step > 30:
            assert optimizer.last.lr == pytest.approx(0.5 * 2.0 / trace, rel=0.01)
    assert monitor.curvature.forwards < 0.2 * 2 * 60  # the first looks, and 5 % later on
    assert model(quadratic).item() < 0.2 * start


def test_a_chosen_learning_rate_is_chosen_for_each_block() -> None:
    """learning_rate=auto is a share of 1 / Tr of the block; one steep block does not hold back the others."""
    scales = (1.0, 1.0, 10.0, 10.0, 100.0, 100.0)
    model = Shown(layers())
    optimizer = ZOOptimizer(model, 1.0, eps=2.0**-6, blocks=Blocks(3))
    settings = StabilitySettings(stability_auto=True, stability_auto_steps=6, stability_drift=None, guard="off")
    assert govern(optimizer, settings) is not None
    rates = []
    for _ in range(90):
        optimizer.step(
            lambda: model(
                lambda ws: torch.stack([(s * w.square()).sum() for s, w in zip(scales, ws, strict=True)]).sum() / 2
            )
        )
        assert optimizer.last is not None
        rates.append(optimizer.last.lr)
    assert rates[:6] == [0.0] * 6 and all(rates[6:])
    np.testing.assert_allclose(np.array(rates[-3:]) * (25.0, 120.0, 900.0), rates[-1] * 900.0, rtol=0.05)


def test_a_block_costs_what_it_moves() -> None:
    """Displaced and written are the layers of the block alone; names that many models have are divided as one expects."""
    model = layers(torch.float32)
    optimizer = ZOOptimizer(model, 0.01, blocks=Blocks(3))
    seen: list[int] = []
    sweep = optimizer.space.backend.inner.sweep_  # type: ignore[attr-defined]

    def watching(targets: Any, moves: Any, rounding: Any) -> None:
        seen.extend(target.weight.numel() for target in targets)
        sweep(targets, moves, rounding)

    optimizer.space.backend.inner.sweep_ = watching  # type: ignore[attr-defined]
    try:
        for size in ((20, 5), (10, 2), (6, 3)):
            seen.clear()
            optimizer.step(lambda: bowl(model))
            assert sorted(seen) == sorted([*size] * 3)  # plus, minus, update; vectors first in a pass
    finally:
        del optimizer.space.backend.inner.sweep_  # type: ignore[attr-defined]
    names = ["embed.weight", *(f"layers.{i}.{part}.weight" for i in range(4) for part in "ab"), "norm.weight"]
    assert list(block_numbers(names, 3).values()) == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2]
    (direction,) = optimizer.source.at(1)
    assert [sees(direction, slot.window) for slot in optimizer.space.slots] == [False, False, True, True, False, False]
    with pytest.raises(UsageError, match="3 layers to divide"):
        ZOOptimizer(layers(), 0.01, blocks=Blocks(4))
    drawn = [Blocks(3, "random").at(5, step) for step in range(300)]
    assert {drawn.count(block) for block in range(3)} <= set(range(70, 131))
    # one block is everything, bit for bit
    ends = []
    for settings in ({}, ZOSettings(zo_blocks=1).optimizer_settings):
        optimizer = make(Tiny(), **settings)
        optimizer.step(lambda model=optimizer.model: lm_loss(model, 0))
        ends.append(optimizer.space.fingerprint())
    assert ends[0] == ends[1]


@pytest.mark.parametrize("refresh", [1, 3])
def test_random_masks_keep_the_share_that_is_asked_for(refresh: int) -> None:
    """Independent from element to element and from period to period, one for all directions and probes of a step."""
    window, source = Window.whole(5, (300, 40)), DirectionSource(0, form=RandomMask(0.9, refresh))
    masks = [kept(source.direction(t * refresh, 0), window, torch.device("cpu")) for t in range(20)]
    share, error = torch.stack(masks).double().mean(), math.sqrt(0.09 / (20 * 12000))
    assert abs(float(share) - 0.1) < 4.5 * error + 2.0**-17
    both = float((masks[0] & masks[1]).double().mean())
    assert abs(both - 0.01) < 4.5 * math.sqrt(0.01 / 12000)
    same = [source.direction(refresh - 1, 3), *source.probes_at(0, 2)]
    assert all(torch.equal(kept(d, window, torch.device("cpu")), masks[0]) for d in same)
    direction = source.direction(4, 1)
    whole = draw(direction, window)
    assert torch.equal(draw(direction, window.panel(130, 141)), whole[130:141])
    rows = torch.tensor([299, 0, 131, 131, 7])
    assert torch.equal(draw_rows(direction, window, rows), whole[rows])
    dense = draw(replace(direction, form=None), window)
    assert bool(((whole == 0.0) | (whole == dense)).all())
    vector = Window.whole(5, (300,))
    assert torch.equal(draw(direction, vector), draw(replace(direction, form=None), vector))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("form", [RandomMask(0.0), SmallWeights(0.0)], ids=str)
def test_sparsity_zero_is_dense_to_the_bit(form: Any, dtype: torch.dtype) -> None:
    """Of the random mask as it is; of small weights where none outgrows the largest that there was."""
    ends = []
    rounding = "residual8" if dtype is torch.bfloat16 else "nearest"
    for settings in ({}, {"form": form}):
        optimizer = make(Tiny(dtype), rule="momentum", weight_rounding=rounding, **settings)
        optimizer.space.load_thresholds(dict.fromkeys(optimizer.space.thresholds, 1e6))
        for step in range(5):
            optimizer.step(lambda step=step, model=optimizer.model: lm_loss(model, step))
        ends.append(optimizer.space.fingerprint())
    assert ends[0] == ends[1]


@pytest.mark.parametrize("rounding", ["nearest", "stochastic", "residual8", "residual16"])
def test_small_weights_move_as_they_would_alone_and_the_rest_keeps_its_bits(rounding: str) -> None:
    """Weights, residual bits and weight decay of a 16-bit model."""
    sparse, dense = (
        make(Tiny(torch.bfloat16), weight_rounding=rounding, weight_decay=20.0, form=form)
        for form in (SmallWeights(0.5), None)
    )
    before = [slot.weight.detach().clone() for slot in sparse.space.slots]
    for optimizer in (sparse, dense):
        optimizer.apply(Step(0, Estimate(optimizer.source.at(0), (0.5,), 1.0), 0.02, 20.0))
    for old, one, other in zip(before, sparse.space.slots, dense.space.slots, strict=True):
        small = old.abs() <= sparse.space.thresholds.get(one.name, math.inf)
        assert torch.equal(one.weight, torch.where(small, other.weight, old))
        if one.residual is not None and other.residual is not None:
            assert torch.equal(one.residual, torch.where(small, other.residual, torch.zeros_like(other.residual)))
        if one.window.total_columns > 1:
            assert abs(float(small.double().mean()) - 0.5) < 0.1 and not torch.equal(one.weight, old)


@pytest.mark.parametrize("form", [RandomMask(0.5), SmallWeights(0.5)], ids=str)
def test_masks_are_unbiased_for_the_masked_gradient(form: Any) -> None:
    """Random: the mean of g is the kept share of the gradient on matrices, all of it on vectors. Small: the masked gradient."""
    model = layers()
    optimizer = ZOOptimizer(model, 0.0, eps=2.0**-12, form=form)
    gradient = torch.autograd.grad(bowl(model), list(model.parameters()))
    limits = [optimizer.space.thresholds.get(name, math.inf) for name, _ in model.named_parameters()]
    small = isinstance(form, SmallWeights)
    share = [
        (w.abs() <= limit).double() if small else torch.full_like(w, 0.5 if w.ndim == 2 else 1.0)
        for w, limit in zip(model.parameters(), limits, strict=True)
    ]
    wanted = torch.cat([(g * m).reshape(-1) for g, m in zip(gradient, share, strict=True)]).detach()
    found = []
    for _ in range(1000):
        optimizer.step(lambda: bowl(model))
        assert optimizer.last is not None
        (direction,), (c,) = optimizer.last.estimate.directions, optimizer.last.estimate.coefficients
        z = [draw(direction, slot.window).reshape(-1) for slot in optimizer.space.slots]
        if small:
            z = [part * mask.reshape(-1) for part, mask in zip(z, share, strict=True)]
        found.append(c * torch.cat(z).double())
    g = torch.stack(found).detach()
    error = g.std(0) / math.sqrt(len(g))
    assert bool(((g.mean(0) - wanted).abs() < 4.5 * error + 1e-6).all())
    assert float(error.max()) < 0.3 * float(wanted.norm())


def test_the_critical_step_size_of_random_masks() -> None:
    """H = h I, signs, each weight kept with probability p: E||z||^2 seen from a kept weight is 1 + (d - 1) p, so that

    eta* = 2 q / (h (1 + (d - 1) p + q - 1)),   2 q / Tr of the masked part but for terms of order 1 / (d p)
    """
    h, dim, p = 0.75, 24, 0.25
    problem, w = Quadratic(h * np.eye(dim)), np.linspace(-1.0, 2.0, dim)
    made, rng, first, second = estimator("two_point", eps=0.5), np.random.default_rng(3), [], []
    for rows in draws("rademacher", 4000, Q, dim):
        z = rows * (rng.random(dim) < p)
        g = problem.estimate(made, w, z).coefficients @ z
        first.append(w @ g)
        second.append(g @ g)
    first, second = np.array(first), np.array(second)
    critical = 2 * first.mean() / second.mean()
    spread = (first / first.mean() - second / second.mean()).std(ddof=1) / math.sqrt(len(first))
    assert abs(critical / (2 * Q / (h * ((dim - 1) * p + Q))) - 1) < 4 * spread < 0.15


@pytest.mark.parametrize("form", [RandomMask(0.5), SmallWeights(0.5)], ids=str)
def test_the_monitor_reads_the_trace_of_the_weights_that_move(form: Any) -> None:
    """H = I over 46 weights of which 10 are biases: with half of each matrix the trace is 10 + 18, and so many move."""
    model = Shown(layers())
    optimizer = ZOOptimizer(model, 1e3, eps=2.0**-6, form=form)
    settings = StabilitySettings(stability_every=1, stability_drift=None, stability_descent_margin=None, guard="off")
    steering = govern(optimizer, settings)
    assert steering is not None and steering.monitor is not None
    for _ in range(60):
        optimizer.step(lambda: model(lambda weights: torch.stack([w.square().sum() for w in weights]).sum() / 2))
        assert optimizer.last is not None and optimizer.last.flags.name == "CAPPED"
    monitor = steering.monitor
    assert monitor.around.sizes == (28,) and monitor.around.heavy == 1.0
    assert monitor.curvature.seen.value <= 28.0 * 1.2 and monitor.curvature.seen.value > 10.0


def test_masks_that_cannot_be_had() -> None:
    for settings in ({"perturbation": "in_place"}, {"rule": "momentum", "rule_settings": {"buffer": "full"}}):
        with pytest.raises(UsageError, match="small_weights reads off the weights"):
            make(Tiny(), form=SmallWeights(0.5), **settings)
    with pytest.raises(UsageError, match="cannot be told from the rest"):
        make(Tiny(), form=SmallWeights(0.5), rule="adamezo", directions=2)
    refused: tuple[tuple[dict[str, Any], str], ...] = (
        ({"zo_shape": "small_weights", "perturbation": "in_place"}, "small_weights reads off the weights"),
        (
            {"zo_shape": "small_weights", "zo_rule": "adamezo", "zo_directions": 2},
            "small_weights reads off the weights",
        ),
        (
            {"zo_shape": "small_weights", "zo_refresh": 5},
            "zo_refresh=5 is of zo_shape=low_rank or subspace or random_mask",
        ),
        ({"zo_shape": "random_mask", "zo_rank": 5}, "zo_rank=5 is of zo_shape=low_rank or subspace"),
        ({"zo_sparsity": 0.5}, "zo_sparsity=0.5 is of zo_shape=random_mask or small_weights"),
        ({"zo_shape": "random_mask", "zo_sparsity": 1.0}, "zo_sparsity is the share"),
        ({"zo_block_order": "random"}, "zo_block_order is of several blocks"),
    )
    for given, words in refused:
        with pytest.raises(UsageError, match=words):
            ZOSettings(**given)
    assert ZOSettings(zo_shape="random_mask", zo_refresh=4, zo_sparsity=0.9).form == RandomMask(0.9, 4)
    assert ZOSettings(zo_shape="small_weights", zo_rule="sign").form == SmallWeights(0.75)


@pytest.mark.parametrize("perturbation", ["read_only", "in_place"])
@pytest.mark.parametrize("what", ["sgd", "adam"])
@pytest.mark.parametrize("how", ["two_point", "one_sided", "es_rank"])
def test_a_schedule_of_directions_resumes_and_replays(how: str, what: str, perturbation: str, tmp_path: Path) -> None:
    """q goes 2, 4, 1 with changes on both sides of the step at which the run is resumed."""
    schedule = Schedule.parse("steps:4@2,1@5", first=2)
    settings: dict[str, Any] = {"estimator": how, "rule": what, "directions": schedule, "perturbation": perturbation}
    state = check_resume_and_replay(tmp_path, stop=7, resume_at=4, **settings)
    with pytest.raises(UsageError, match="trained with directions"):
        make(Tiny(), **{**settings, "directions": 2}).load_state_dict(state)


def test_a_scheduled_step_is_the_step_of_that_many_directions() -> None:
    """Bit for bit; and a schedule that does not change is its q."""
    scheduled = make(Tiny(), directions=Schedule.parse("linear:3@4", first=1))
    counts = []
    for step in range(6):
        single = make(Tiny(), directions=scheduled.directions)
        single.space.load_weights({slot.name: slot.weight.detach().clone() for slot in scheduled.space.slots})
        single.steps = step
        for optimizer in (scheduled, single):
            optimizer.step(lambda step=step, model=optimizer.model: lm_loss(model, step))
        assert single.space.fingerprint() == scheduled.space.fingerprint()
        counts.append(single.directions)
    assert counts == [1, 1, 2, 2, 3, 3]
    ends = []
    for directions in (Q, Schedule.parse("constant", Q), Schedule.parse(f"linear:{Q}@3", Q)):
        optimizer = make(Tiny(), directions=directions)
        for step in range(4):
            optimizer.step(lambda step=step, model=optimizer.model: lm_loss(model, step))
        ends.append(optimizer.space.fingerprint())
    assert len(set(ends)) == 1


def test_the_monitor_follows_a_schedule() -> None:
    """The cap is 2 q / Tr with the q of the step, and the forwards are those that were taken."""
    model = Shown(layers())
    optimizer = ZOOptimizer(model, 1e3, eps=2.0**-6, directions=Schedule.parse("steps:4@30", first=1))
    settings = StabilitySettings(stability_every=1, stability_drift=None, stability_descent_margin=None, guard="off")
    steering = govern(optimizer, settings)
    assert steering is not None and steering.monitor is not None
    for step in range(40):
        optimizer.step(lambda: model(lambda weights: torch.stack([w.square().sum() for w in weights]).sum() / 2))
        assert optimizer.last is not None
        q = 1 if step < 30 else 4
        assert optimizer.last.lr == pytest.approx(0.5 * 2 * q / 46, rel=1e-3)
    assert steering.monitor.forwards == 30 * 2 + 10 * 8


@pytest.mark.parametrize("at", [10, 13, 14])
def test_a_schedule_is_measured_as_often_in_a_resumed_run(at: int) -> None:
    """How often curvature is read follows q; from a step where it is read on, and from another one."""

    def run(first: int, last: int, state: tuple[Any, Any] | None = None) -> tuple[Any, Any, dict[str, float]]:
        model = layers()
        optimizer = ZOOptimizer(model, 0.05, directions=Schedule.parse("steps:4@3", first=1))
        steering = govern(optimizer, StabilitySettings(guard="off"))
        if state is not None:
            model.load_state_dict(state[0])
            optimizer.load_state_dict(state[1])
        for _ in range(first, last):
            optimizer.step(lambda: bowl(model))
        assert steering is not None
        return copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict()), steering.metrics()

    *_, whole = run(0, 24)
    *_, resumed = run(at, 24, run(0, at)[:2])
    assert resumed == whole and whole["stability/forwards"] > 20


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"zo_directions_schedule": "linear"}, "must be one of constant, linear:Q@STEP"),
        ({"zo_directions_schedule": "steps:4@9,2@3"}, "ascending steps"),
        ({"zo_directions_schedule": "steps:0@9"}, "between 1 and 4095"),
        (
            {"zo_directions_schedule": "linear:2@9", "zo_estimator": "fzoo", "zo_directions": 8},
            "needs zo_directions=3 or more",
        ),
        ({"zo_directions_schedule": "linear:2@9", "zo_rule": "sign"}, "zo_rule=sign needs zo_directions=1"),
        (
            {"zo_directions_schedule": "steps:3@9", "zo_directions": 2, "zo_direction_groups": 2},
            "must divide zo_directions=3",
        ),
    ],
)
def test_schedules_that_cannot_be_had(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        ZOSettings(**given)


def test_the_sphere_is_the_dense_reference() -> None:
    """Seven steps in float64 along normals of length sqrt(d) over the weights that move, for two estimators."""
    for how, blocks in (("two_point", None), ("one_sided", Blocks(3))):
        model = layers()
        optimizer = ZOOptimizer(
            model, 0.05, eps=0.125, directions=2, seed=4, distribution="sphere", estimator=how, blocks=blocks
        )
        w = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        for step in range(7):
            total = {name: torch.zeros_like(weight) for name, weight in w.items()}
            for direction in optimizer.source.at(step, 2):
                z = dense_z(optimizer, direction, w, w)
                moved = [part for part in z.values() if bool(part.any())]
                square = sum(float(part.square().sum()) for part in moved)
                scale = math.sqrt(sum(part.numel() for part in moved) / square)
                z = {name: part * scale for name, part in z.items()}
                ends = [
                    bowl(model, {n: w[n] + s * z[n] for n in w})
                    for s in ((0.125, -0.125) if how == "two_point" else (0.125, 0.0))
                ]
                slope = float(ends[0] - ends[1]) / (0.25 if how == "two_point" else 0.125)
                for name in w:
                    total[name] += slope / 2 * z[name]
            optimizer.step(lambda model=model: bowl(model))
            for name, weight in model.named_parameters():
                w[name] = w[name] - 0.05 * total[name]
                torch.testing.assert_close(weight.detach(), w[name], rtol=0.0, atol=1e-11)


@pytest.mark.parametrize("what", ["sgd", "adam"])
def test_the_sphere_resumes_and_replays(what: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"rule": what, "directions": 2, "distribution": "sphere"}
    state = check_resume_and_replay(tmp_path, stop=7, resume_at=4, **settings)
    with pytest.raises(UsageError, match="trained with distribution 'sphere'"):
        make(Tiny(), **{**settings, "distribution": "gaussian"}).load_state_dict(state)


def test_the_critical_step_size_and_the_mean_on_the_sphere() -> None:
    """H = h I: ||z||^2 = d always, so eta* = 2 q / (h (d + q - 1)), as with signs; and unbiased on any quadratic."""
    h, dim = 0.75, 12
    problem, w = Quadratic(h * np.eye(dim)), np.linspace(-1.0, 2.0, dim)
    made, first, second = estimator("two_point", eps=0.5), [], []
    for rows in draws("gaussian", 3000, Q, dim):
        z = rows * math.sqrt(dim) / np.linalg.norm(rows, axis=1, keepdims=True)
        g = problem.estimate(made, w, z).coefficients @ z
        first.append(w @ g)
        second.append(g @ g)
    first, second = np.array(first), np.array(second)
    critical = 2 * first.mean() / second.mean()
    spread = (first / first.mean() - second / second.mean()).std(ddof=1) / math.sqrt(len(first))
    assert abs(critical / (2 * Q / (h * (dim + Q - 1))) - 1) < 4 * spread < 0.1
    general, w = random_quadratic(2)
    z = draws("gaussian", 3000, Q, general.dim)
    z *= math.sqrt(general.dim) / np.linalg.norm(z, axis=2, keepdims=True)
    mean, error = means(made, general, w, z)
    assert np.all(np.abs(mean - general.gradient(w)) < 4.5 * error)


def test_the_sphere_descends_and_is_capped() -> None:
    optimizer = make(Tiny(), directions=Q, distribution="sphere")
    losses = steep_losses(optimizer, 0.01, 100)
    assert losses[-1] < 0.9 * losses[0]
    model = Shown(layers())
    capped = ZOOptimizer(model, 1e3, eps=2.0**-6, distribution="sphere")
    govern(capped, StabilitySettings(stability_drift=None, stability_descent_margin=None, guard="off"))
    for _ in range(30):
        capped.step(lambda: model(lambda weights: torch.stack([w.square().sum() for w in weights]).sum() / 2))
        assert capped.last is not None and capped.last.lr == pytest.approx(1.0 / 46, rel=1e-3)  # z'z is 46 each time


def test_spheres_that_cannot_be_had() -> None:
    with pytest.raises(UsageError, match="zo_distribution=sphere needs the length"):
        make(Tiny(), distribution="sphere", perturbation="in_place")
    with pytest.raises(UsageError, match="zo_distribution=sphere scales dense directions"):
        make(Tiny(), distribution="sphere", form=RandomMask(0.5))
    for given in ({"zo_shape": "low_rank"}, {"perturbation": "in_place"}):
        with pytest.raises(UsageError, match="zo_distribution=sphere scales dense directions"):
            ZOSettings(zo_distribution="sphere", **given)
    with pytest.raises(UsageError, match="zo_rule=sign needs"):
        ZOSettings(zo_distribution="sphere", zo_rule="sign")
