"""What only rules that keep tensors have: edges with a preconditioner, limits, scaled directions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.methods.test_estimators_and_rules import SOURCE, Q, Quadratic, random_quadratic
from tests.trajectory.runs import Tiny, make
from zoft.backends import CurvedMove, Move, PolarMove, Rounding, Target, Term
from zoft.backends.eigen import eigen
from zoft.backends.polar import core, gram
from zoft.backends.reference import ReferenceBackend
from zoft.backends.shaped import ShapedBackend
from zoft.directions import Direction, DirectionSource, Distribution, LowRank, Window, draw
from zoft.directions.roots import root
from zoft.errors import UsageError
from zoft.estimate import Estimate, Step
from zoft.estimators import estimator
from zoft.naming import stream_ids
from zoft.optimizer import ZOOptimizer
from zoft.rules import rule, spend
from zoft.rules.adamezo import shares
from zoft.space import ParameterSpace
from zoft.stability.theory import adam_critical_lr
from zoft.trainer.settings import ZOSettings


def test_full_adam_is_adam_where_all_elements_share_a_second_moment() -> None:
    """Along one direction of signs, spent past the check that refuses it: the two differ by float64's rounding alone."""
    ends = []
    for what, own in (("adam", {"buffer": "full"}), ("full_adam", {})):
        module = nn.Linear(5, 6, bias=False, dtype=torch.float64)
        nn.init.zeros_(module.weight)
        made = rule(what, **own)
        space, state = ParameterSpace(module, buffers=made.buffers), made.init()
        for t in range(20):
            move, state = spend(made, state, Step(t, Estimate(SOURCE.at(t, 1), (math.cos(t),), 0.0), 0.125))
            assert move is not None
            space.move_([move])
        ends.append(module.weight.detach())
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-14)


def test_full_adam_with_a_frozen_preconditioner_has_the_closed_edge() -> None:
    """beta = 0, v = P^2 that stays, random diagonal H: equation (3). At eta* the second moments of its mode reproduce.

    With steps eta / P_i, as below (5): E w_i^2 = 1 / (P_i l_i (2 - (1 + 1/q) h_i)) up to a factor, h_i = eta* l_i / P_i.
    """
    rng = np.random.default_rng(3)
    curvature, scale = rng.uniform(0.5, 2.0, 12), rng.uniform(0.5, 2.0, 12)
    edge = adam_critical_lr(curvature.tolist(), scale.tolist(), 0.0, Q)
    mode = 1.0 / (scale * curvature * (2.0 - (1.0 + 1.0 / Q) * edge * curvature / scale))
    made = rule("full_adam", beta=0.0, beta2=0.5)
    module = nn.Linear(4, 3, bias=False, dtype=torch.float64)
    space, source = ParameterSpace(module, buffers=made.buffers), DirectionSource(5, Distribution.GAUSSIAN)
    weight = curvature / scale
    grown: dict[float, list[float]] = {0.5: [], 1.0: []}
    for t in range(1000):
        w = np.sqrt(mode) * rng.choice([-1.0, 1.0], 12)
        directions = source.at(t, Q)
        z = np.stack([draw(d, space.slots[0].window).double().numpy().reshape(-1) for d in directions])
        estimate = Estimate(directions, tuple(z @ (curvature * w) / Q), 0.0)
        for share, found in grown.items():
            move, _ = spend(made, {"v": 0.0, "spent": 10**6}, Step(t, estimate, share * edge))
            assert move is not None
            space.load_weights({space.slots[0].name: torch.from_numpy(w).view(3, 4)})
            space.momenta.load({key: torch.from_numpy(scale**2).view(3, 4) for key in space.momenta})
            space.move_([replace(move, keep_square=1.0, share=0.0, unbias=1.0)])  # type: ignore[arg-type]
            after = module.weight.detach().numpy().reshape(-1)
            found.append(float(np.sum(after**2 * weight) / np.sum(mode * weight)))
    half, full = np.array(grown[0.5]) - 1.0, np.array(grown[1.0]) - 1.0  # share^2 second - share first, exactly
    second = 2.0 * full - 4.0 * half
    first = second - full
    error = (first / first.mean() - second / second.mean()).std() / math.sqrt(1000)
    assert abs(first.mean() / second.mean() - 1.0) < 4.0 * error < 0.15


def spent(
    name: str, steps: int, q: int, source: DirectionSource = SOURCE, **own: Any
) -> tuple[torch.Tensor, list[Step]]:
    """Where some steps with a rule lead from zero, in float64, and the steps."""
    module = nn.Linear(5, 6, bias=False, dtype=torch.float64)
    nn.init.zeros_(module.weight)
    made, taken = rule(name, **own), []
    space, state = ParameterSpace(module, buffers=made.buffers), made.init()
    for t in range(steps):
        coefficients = tuple(math.cos(3.0 * t + j) for j in range(q))
        taken.append(Step(t, Estimate(source.at(t, q), coefficients, 0.0), 0.125))
        move, state = spend(made, state, taken[-1])
        assert move is not None
        space.move_([move])
    return module.weight.detach(), taken


def test_a_window_as_long_as_the_run_is_full_adam() -> None:
    torch.testing.assert_close(
        spent("adamezo", 12, 3, window=12)[0], spent("full_adam", 12, 3)[0], rtol=1e-12, atol=1e-14
    )


def test_a_window_of_one_is_the_sign_of_every_element() -> None:
    found, (step,) = spent("adamezo", 1, 3, window=1, delta=1e-30)
    pairs = zip(step.estimate.directions, step.estimate.coefficients, strict=True)
    gradient = sum((np.float32(c) * draw(d, Window.whole(stream_ids(["weight"])["weight"], (6, 5))) for d, c in pairs))
    torch.testing.assert_close(found, -0.125 * torch.sign(gradient.double()), rtol=1e-12, atol=0.0)  # type: ignore[union-attr]


def test_no_weight_moves_further_than_the_window_allows() -> None:
    """lr sqrt(sum a_k^2 / b_k), for any gradients; with one that dwarfs the others it comes near."""
    a, b = shares(0.9, 10), shares(0.99, 10)
    most = 0.125 * math.sqrt(sum(x * x / y for x, y in zip(a, b, strict=True)))
    before = spent("adamezo", 19, 2, DirectionSource(1, Distribution.GAUSSIAN), window=10)[0]
    after = spent("adamezo", 20, 2, DirectionSource(1, Distribution.GAUSSIAN), window=10)[0]
    assert 0.3 * most < float((after - before).abs().max()) <= most


def test_adamezo_forgets_what_left_the_window() -> None:
    made, states = rule("adamezo", window=3), []
    for start in (0, 4):
        state = made.init()
        for t in range(start, 9):
            _, state = spend(made, state, Step(t, Estimate(SOURCE.at(t, 2), (1.0 + t, 0.5), 0.0), 0.1))
        states.append(state)
    assert states[0] == states[1] and len(states[0]["window"]) == 2


def test_muon_is_sign_descent_where_nothing_is_to_be_orthogonalised() -> None:
    """Rank 1, one direction of signs, beta = 0: lr sign(c) z, matrices and vectors alike, tied and scalar ones too."""
    ends, form = [], LowRank("low_rank", 1, 1)
    for c in (0.25, -3.0):
        space, made = ParameterSpace(Tiny(torch.float64), shaped=True), rule("muon", beta=0.0)
        directions = DirectionSource(3, form=form).at(0, 1)
        before = {slot.name: slot.weight.detach().clone() for slot in space.slots}
        move, _ = spend(made, made.init(), Step(0, Estimate(directions, (c,), 0.0), 0.125))
        assert move is not None
        space.move_([move])
        for slot in space.slots:
            z = draw(directions[0], slot.window).double().view(slot.weight.shape)
            torch.testing.assert_close(slot.weight.detach() - before[slot.name], -0.125 * math.copysign(1, c) * z)
        ends.append(space)
    assert len(ends) == 2


@pytest.mark.parametrize("form", [LowRank("low_rank", 2, 4), LowRank("subspace", 3, 4)])
def test_a_part_of_a_matrix_gets_its_part_of_the_orthogonal_factor(form: LowRank) -> None:
    """Bit for bit: shards need no communication. And all of it: orthonormal columns times sqrt(N K / R)."""
    directions = DirectionSource(1, Distribution.GAUSSIAN, form).at(2, 2)
    move = PolarMove(tuple(Term(d, s) for d, s in zip(directions, (0.5, -2.0), strict=True)))
    whole, part = torch.zeros(9, 5), torch.zeros(4, 3)
    window, backend = Window.whole(77, whole.shape), ShapedBackend(ReferenceBackend())
    move.spend_(backend, Target(whole, window), (), Rounding.NEAREST)
    move.spend_(backend, Target(part, replace(window, row=3, rows=4, column=1, columns=3)), (), Rounding.NEAREST)
    assert torch.equal(part, whole[3:7, 1:4])
    sizes = torch.linalg.svdvals(whole.double())
    wanted = [math.sqrt(45 / form.rank)] * form.rank + [0.0] * (5 - form.rank)
    torch.testing.assert_close(sizes, torch.tensor(wanted).double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("n", "k", "r"), [(9, 7, 1), (9, 7, 3), (6, 5, 5), (40, 30, 17)])
def test_the_core_gives_the_orthogonal_factor(n: int, k: int, r: int) -> None:
    rng = np.random.default_rng(r)
    a, b = rng.normal(size=(n, r)), rng.normal(size=(k, r))
    for left in (a, a * np.geomspace(1.0, 1e-3, r)):
        x, rank = core(gram(torch.from_numpy(left)), gram(torch.from_numpy(b)))
        u, _, vt = np.linalg.svd(left @ b.T)
        assert rank == r
        np.testing.assert_allclose(left @ x @ b.T, u[:, :r] @ vt[:r], atol=1e-8)


def test_the_core_leaves_out_what_is_zero() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(8, 2)), rng.normal(size=(6, 2))
    for left, right in ((np.hstack([a, a]), np.hstack([b, b])), (np.hstack([a, 0 * a]), rng.normal(size=(6, 4)))):
        x, rank = core(gram(torch.from_numpy(left)), gram(torch.from_numpy(right)))
        u, _, vt = np.linalg.svd(left @ right.T)
        assert rank == 2
        np.testing.assert_allclose(left @ x @ right.T, u[:, :2] @ vt[:2], atol=1e-9)
    assert core(np.zeros((2, 2)), np.eye(2))[1] == core(np.eye(2), np.zeros((2, 2)))[1] == 0


@pytest.mark.parametrize("n", [1, 2, 5, 16, 33])
def test_eigenvalues_are_those_of_the_library(n: int) -> None:
    a = np.random.default_rng(n).normal(size=(n, n))
    values, vectors = eigen(a @ a.T)
    np.testing.assert_allclose(np.sort(values), np.linalg.eigvalsh(a @ a.T), atol=1e-12 * n * n)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(n), atol=1e-13 * n)
    np.testing.assert_allclose((vectors * values) @ vectors.T, a @ a.T, atol=1e-12 * n * n)


def test_muon_asks_for_what_it_needs() -> None:
    with pytest.raises(UsageError, match="dense directions have none"):
        make(Tiny(), rule="muon")
    with pytest.raises(UsageError, match="dense directions have none"):
        ZOSettings(zo_rule="muon")
    with pytest.raises(UsageError, match="rank 88 together"):
        make(Tiny(), rule="muon", form=LowRank("low_rank", 2, 1))
    assert make(Tiny(), rule="muon", form=LowRank("low_rank", 2, 50)).rule.name == "muon"
    with pytest.raises(UsageError, match="zo_momentum_buffer=full is of zo_rule=momentum or adam"):
        ZOSettings(zo_rule="muon", zo_shape="low_rank", zo_momentum_buffer="full")


def hizoo_space(shape: tuple[int, int], h: np.ndarray, smoothing: float) -> tuple[Any, ParameterSpace]:
    """The rule, and a space in float64 with these curvatures."""
    made = rule("hizoo", smoothing=smoothing)
    space = ParameterSpace(nn.Linear(shape[1], shape[0], bias=False, dtype=torch.float64), buffers=made.buffers)
    space.momenta.load({key: torch.from_numpy(h).view(shape) for key in space.momenta})
    return made, space


def scaled_rows(space: ParameterSpace, directions: Sequence[Direction]) -> np.ndarray:
    """z / sqrt(h) [q, d], as losses see it."""
    slot, found = space.slots[0], []
    for direction in directions:
        out = torch.empty_like(slot.weight)
        zero = torch.zeros_like(slot.weight)
        space.backend.axpby_(Target(zero, slot.window, out=out), [Move((Term(direction, 1.0),))])
        found.append(out.numpy().reshape(-1))
    return np.stack(found)


def test_hizoo_on_fixed_curvatures_is_descent_with_the_edge_of_the_scaled_hessian() -> None:
    """H = a h^1/2 h^1/2', so H~ = a I and eta* = 2 q / (a (d + q + 1)) for normals, measured in the norm of sqrt(h) w."""
    rng, a, steps = np.random.default_rng(0), 0.75, 1500
    h = rng.uniform(0.25, 4.0, 12)
    made, space = hizoo_space((3, 4), h, smoothing=0.0)
    first, second = [], []
    for t in range(steps):
        w, directions = rng.normal(size=12) / np.sqrt(h), DirectionSource(6, Distribution.GAUSSIAN).at(t, Q)
        z = scaled_rows(space, directions)
        estimate = Estimate(directions, tuple(z @ (a * h * w) / Q), 0.0, (1.0,) * Q)
        space.load_weights({space.slots[0].name: torch.from_numpy(w).view(3, 4)})
        move, _ = spend(made, {}, Step(t, estimate, 1.0))
        assert move is not None
        space.move_([move])
        moved = w - space.slots[0].weight.detach().numpy().reshape(-1)
        first.append(2.0 * np.sum(h * w * moved))
        second.append(np.sum(h * moved**2))
    critical = np.mean(first) / np.mean(second)
    error = np.std(np.array(first) / np.mean(first) - np.array(second) / np.mean(second)) / math.sqrt(steps)
    assert abs(critical / (2 * Q / (a * (12 + Q + 1))) - 1.0) < 4.0 * error < 0.15
    np.testing.assert_array_equal(space.momenta.of(["curvature"], space.slots[0].name)[0].numpy().reshape(-1), h)


def test_hizoo_follows_the_diagonal_as_it_says() -> None:
    """E of the bracket: 1 - s + s (Tr H~ + 2 H~_ii) / 2 for normals and positive H."""
    rng, steps, s = np.random.default_rng(1), 2000, 0.5
    h, problem = rng.uniform(0.5, 2.0, 6), random_quadratic(2)[0]
    made, space = hizoo_space((2, 3), h, smoothing=s)
    estimator_, growths = estimator("three_point", eps=0.25), []
    for t in range(steps):
        directions = DirectionSource(8, Distribution.GAUSSIAN).at(t, Q)
        space.momenta.load({key: torch.from_numpy(h).view(2, 3) for key in space.momenta})
        z = scaled_rows(space, directions)
        losses = problem.losses(np.ones(6), estimator_.population(directions), z)
        move, _ = spend(made, {}, Step(t, estimator_.estimate(directions, losses), 1.0))
        assert move is not None
        space.move_([move])
        growths.append(space.momenta.of(["curvature"], space.slots[0].name)[0].numpy().reshape(-1) / h)
    scaled = problem.hessian / np.sqrt(np.outer(h, h))
    wanted = 1.0 - s + s * (np.trace(scaled) + 2.0 * np.diag(scaled)) / 2.0
    error = np.std(growths, axis=0) / math.sqrt(steps)
    assert np.all(np.abs(np.mean(growths, axis=0) - wanted) < 4.5 * error) and np.all(error < 0.05 * wanted)


def test_hizoo_equalises_a_small_diagonal() -> None:
    """Twenty to one before; H~_ii = 2 / (d + 2) is where it rests. Through the optimizer; learning rate 0."""
    problem = Quadratic(np.diag(np.geomspace(1.0, 20.0, 4)))
    module, eye = nn.Linear(2, 2, bias=False, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    own: dict[str, Any] = {"estimator": "three_point", "rule": "hizoo", "distribution": "gaussian", "directions": Q}
    optimizer = ZOOptimizer(module, 0.0, rule_settings={"smoothing": 0.02}, **own)
    (h,), rests = optimizer.space.momenta.values(), []
    for step in range(1500):
        optimizer.step(lambda: problem(module(eye).T.reshape(-1).numpy()))
        if step >= 500:
            rests.append(h.numpy().reshape(-1).copy())
    found = np.diag(problem.hessian) / np.exp(np.mean(np.log(rests), axis=0))
    np.testing.assert_allclose(found, 2 / 6, rtol=0.25)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_op_sees_the_same_scaled_directions(dtype: torch.dtype) -> None:
    model = nn.ModuleList([nn.Linear(7, 300, bias=False), nn.LayerNorm(5)]).to(dtype)
    space = ParameterSpace(model, buffers=["curvature"])
    for h in space.momenta.values():
        h.copy_(torch.rand(h.shape, generator=torch.Generator().manual_seed(1)) + 0.5)
    direction = DirectionSource(2, Distribution.GAUSSIAN).at(1)[0]
    slot, point = space.slots[0], (Term(direction, 0.25),)
    (h,) = space.momenta.of(["curvature"], slot.name)
    wanted = (slot.weight.float() + draw(direction, slot.window) / root(h) * 0.25).to(dtype)
    target, ids, copies = (
        Target(slot.weight, slot.window),
        torch.tensor([[299, 0, 131]]),
        torch.empty(1, 300, 7).to(dtype),
    )
    space.backend.panel_pair(target, [point], copies)
    x = torch.ones(1, 2, 7, dtype=dtype)
    assert torch.equal(copies[0], wanted) and torch.equal(
        space.backend.perturbed_embedding(ids, target, [point]), wanted[ids]
    )
    assert torch.equal(
        space.backend.perturbed_linear(x, target, [point], panel_bytes=128 * 7 * 4)[0], x[0] @ wanted.t()
    )
    before = slot.weight.detach().clone()
    space.move_([Move(point), CurvedMove(point, factor=-1.0, shares=(0.0,))])
    torch.testing.assert_close(
        slot.weight.detach(), before, rtol=0.0, atol=2.0**-6 if dtype is torch.bfloat16 else 2.0**-22
    )


def test_hizoo_asks_for_what_it_needs() -> None:
    gaussian: dict[str, Any] = {"rule": "hizoo", "distribution": "gaussian"}
    with pytest.raises(UsageError, match="set both or neither, not two_point and hizoo"):
        make(Tiny(), **gaussian)
    with pytest.raises(UsageError, match="set both or neither, not three_point and sgd"):
        make(Tiny(), estimator="three_point")
    with pytest.raises(UsageError, match="zo_distribution=gaussian"):
        make(Tiny(), rule="hizoo", estimator="three_point")
    with pytest.raises(UsageError, match="zo_shape=dense"):
        make(Tiny(), **gaussian, estimator="three_point", form=LowRank("low_rank", 1))
    for settings in ({"zo_rule": "hizoo"}, {"zo_rule": "hizoo", "zo_estimator": "three_point"}):
        with pytest.raises(UsageError, match="zo_rule=hizoo"):
            ZOSettings(**settings)  # type: ignore[arg-type]
