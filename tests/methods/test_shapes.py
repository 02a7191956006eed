"""Directions with thin factors: moments, a dense reference, limits, the edge, losses through factors, resume and replay."""

from __future__ import annotations

import gc
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.trajectory.runs import Tiny, check_resume_and_replay, loss, make, steep_losses
from zoft.backends import Move, Rounding, Term
from zoft.directions import Direction, DirectionSource, Distribution, LowRank, Window, draw, draw_rows, factors
from zoft.directions import low_rank as thin
from zoft.directions.low_rank import orthonormal
from zoft.errors import UsageError
from zoft.governor import Evidence
from zoft.optimizer import ZOOptimizer
from zoft.perturb import ReadOnly
from zoft.space import ParameterSpace
from zoft.stability import StabilityMonitor, StabilitySettings, Surroundings, govern
from zoft.trainer.settings import ZOSettings

FORMS = [LowRank("low_rank", 1), LowRank("low_rank", 2, 3), LowRank("subspace", 2, 3), LowRank("subspace", 9)]
LAWS = list(Distribution)
NORMAL = Distribution.GAUSSIAN


def samples(form: LowRank, shape: tuple[int, int], count: int, law: Distribution = NORMAL) -> np.ndarray:
    """Z of independent periods, [count, N, K] float64."""
    window, source = Window.whole(7, shape), DirectionSource(1, law, form)
    return np.stack([draw(source.direction(t * form.refresh, 0), window).double().numpy() for t in range(count)])


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_every_element_has_mean_0_and_variance_1_and_none_are_correlated(form: LowRank, law: Distribution) -> None:
    z = samples(form, (3, 2), 500, law).reshape(500, 6)
    products = z[:, :, None] * z[:, None, :]
    for found, wanted in ((z, np.zeros(6)), (products, np.eye(6))):
        error = found.std(0, ddof=1) / math.sqrt(len(z)) + 1e-6  # signs have products that do not scatter
        assert np.all(np.abs(found.mean(0) - wanted) < 4.5 * error)


@pytest.mark.parametrize("shape", [(40, 30), (1, 30), (40, 2)])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_fourth_moments_are_those_of_the_table(form: LowRank, shape: tuple[int, int]) -> None:
    """One element of a matrix is a w = a b^T, where they are largest; w of rank 2 has less."""
    z = samples(form, shape, 600)
    fourth = (z**4).mean((1, 2))
    error = fourth.std(ddof=1) / math.sqrt(len(fourth))
    assert abs(fourth.mean() - form.tail([shape])) < 4.5 * error
    if min(shape) > 1:
        two = (0.5**0.5 * (z[:, 0::2, 0::2][:, :1, :1] + z[:, 1::2, 1::2][:, :1, :1])) ** 4
        assert two.mean() < form.tail([shape]) + 4.5 * two.std(ddof=1) / math.sqrt(len(two))


def test_the_safe_edge_is_that_of_the_worst_matrix_that_is_there() -> None:
    """Rank 8 cannot be had of a head with two rows; there it is 2, and the fourth moment is larger."""
    form = LowRank("subspace", 8)
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 2))
    optimizer = make(model, form=form, directions=3)
    steering = govern(optimizer, StabilitySettings())
    assert steering is not None and steering.monitor is not None
    wanted = 3.0 * 4.0 * (2 * 64) / (4 * 66)  # r = 2: (1 + 2/2)^2 = 4
    assert steering.monitor.around.tail == pytest.approx(wanted) and wanted > form.tail([(64, 64)])
    assert steering.monitor.around.heavy == pytest.approx(wanted + 2.0)
    assert form.tail([]) == 3.0


def test_the_monitor_grades_and_reports_by_the_edge_that_it_caps_at() -> None:
    found = []
    for tail in (None, 9.0):
        around = Surroundings({"name": "sgd"}, 2, 0.5, elements=100, weights_norm=50.0, tail=tail)
        monitor = StabilityMonitor(StabilitySettings(stability_every=1, stability_loss_noise=0.0), around)
        for step in range(30):
            points = [1.0 + 0.5 * 8.0 * sum(s for _, s in point) ** 2 for point in monitor.request(step).points]
            pair = (1.0 + 0.5 * 8.0 * 0.25,) * 2
            monitor.decide(Evidence(step, 0.2, 1.0, (2.0, 2.0), None, (pair, pair), 0.5, tuple(points)))
        metrics = monitor.metrics()
        assert monitor.limits["curvature"] == pytest.approx(0.5 * metrics["stability/edge_high"], rel=1e-6)
        found.append((metrics["stability/edge_high"], monitor.level))
    assert found[0][0] == pytest.approx(10.0 * found[1][0])
    assert found[0][0] == pytest.approx(2.0 * 2 / 8.0)


def test_bases_are_made_once_a_period_and_leave_with_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two directions in each step have bases of their own with refresh 1; their number does not grow."""
    made: list[int] = []
    monkeypatch.setattr(thin, "orthonormal", lambda columns: (made.append(1), orthonormal(columns))[1])
    for refresh, wanted in ((1, 2 * 2 * 2 * 6), (3, 2 * 2 * 2)):  # bases x matrices x (directions x steps or periods)
        form = LowRank("subspace", 3, refresh)
        optimizer = make(Tiny(), form=form, directions=2)
        assert len(optimizer.space.matrices) == 2
        made.clear()
        for step in range(6):
            optimizer.step(lambda step=step, model=optimizer.model: loss(model, step))
        assert len(made) == wanted
        assert len(thin._bases[form]) == (8 if refresh == 1 else 4)
        form, copy = LowRank("low_rank", 2), optimizer.source.form
        del optimizer, form, copy
        gc.collect()
        assert not any(kept.shape == "subspace" and kept.rank == 3 and kept.refresh == refresh for kept in thin._bases)


def test_the_full_rank_subspace_has_the_dense_moments() -> None:
    """With r = N = K it is P S Q', a normal matrix seen from other axes."""
    z = samples(LowRank("subspace", 5), (5, 5), 500)
    for power, wanted in ((2, 1.0), (4, 3.0), (6, 15.0)):
        values = (z**power).mean((1, 2))
        assert abs(values.mean() - wanted) < 4.5 * values.std(ddof=1) / math.sqrt(len(z))
    assert np.linalg.matrix_rank(z[0]) == 5


@pytest.mark.parametrize("rank", [1, 3])
def test_the_critical_step_size_of_low_rank_products(rank: int) -> None:
    """H = h I: eta* = 2 q / (h (k + q - 1)), k = E||Z||^4 / d = d + 2 + 2 (N + K + 1) / r, measured over draws."""
    rows, columns, q, h = 6, 5, 2, 0.75
    d = rows * columns
    square = (samples(LowRank("low_rank", rank), (rows, columns), 1500) ** 2).sum((1, 2))
    k, error = (square**2).mean() / d, (square**2).std(ddof=1) / d / math.sqrt(len(square))
    stated = d + 2 + 2 * (rows + columns + 1) / rank
    assert abs(k - stated) < 4.5 * error < 0.3 * stated
    trace, tail = h * d, LowRank("low_rank", rank).tail([(rows, columns)])
    assert (
        2 * q / (trace * (tail + q - 1)) < 2 * q / (h * (stated + q - 1)) < 2 * q / trace
    )  # safe < exact < right edge


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_parts_and_rows_are_those_of_the_whole(form: LowRank) -> None:
    window, direction = Window.whole(5, (300, 7)), Direction(0, 4, 2, form=form)
    whole = draw(direction, window)
    assert torch.equal(draw(direction, window.panel(130, 140)), whole[130:140])
    rows = torch.tensor([299, 0, 131, 131])
    assert torch.equal(draw_rows(direction, window, rows), whole[rows])
    vector = Window.whole(5, (300,))
    assert torch.equal(draw(direction, vector), draw(replace(direction, form=None), vector))
    assert torch.linalg.matrix_rank(whole) == min(form.rank, 7)


def test_factors_stay_for_a_period_and_are_shared_in_it() -> None:
    window, form = Window.whole(5, (30, 7)), LowRank("low_rank", 2, 3)
    source = DirectionSource(0, form=form)
    of = {(t, j): factors(source.direction(t, j), window, torch.device("cpu")) for t in (3, 5, 6) for j in (0, 1)}
    assert torch.equal(of[3, 0][1], of[5, 1][1]) and not torch.equal(of[3, 0][1], of[6, 0][1])
    assert len({tuple(a.reshape(-1).tolist()) for a, _ in of.values()}) == 6
    (probe,) = source.probes_at(5)
    assert torch.equal(factors(probe, window, torch.device("cpu"))[1], of[3, 0][1])
    own = [factors(Direction(0, 3, j, form=LowRank("low_rank", 2)), window, torch.device("cpu"))[1] for j in (0, 1)]
    assert not torch.equal(own[0], own[1])


def test_orthonormal_columns() -> None:
    columns = torch.randn(50, 50, generator=torch.Generator().manual_seed(0))
    q = orthonormal(columns)
    torch.testing.assert_close(q.T @ q, torch.eye(50, dtype=torch.float64), rtol=0, atol=1e-12)
    triangle = q.T @ columns.double()
    assert bool((triangle.diagonal() > 0).all()) and float(triangle.tril(-1).abs().max()) < 1e-10


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_losses_through_the_factors_are_those_of_the_matrix_made_of_them(form: LowRank) -> None:
    """A linear layer never sees the product; everything else does. Against the dense matrix in float64."""
    model = Tiny(torch.float64, tied=False)
    space = ParameterSpace(model, shaped=True)
    point = tuple(Term(d, s) for d, s in zip(DirectionSource(3, form=form).at(4, 2), (0.25, -0.5), strict=True))
    ids = torch.arange(9).reshape(3, 3)
    with torch.no_grad():
        (seen,) = ReadOnly(space).losses([point], lambda: model(ids))
        for slot in space.slots:
            for term in point:
                slot.weight.add_(term.scale * draw(term.direction, slot.window).double().reshape(slot.weight.shape))
        torch.testing.assert_close(seen, model(ids), rtol=1e-6, atol=1e-6)  # signs of 2^-1/2 are float32 in the factors


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_linear_layer_is_not_displaced(dtype: torch.dtype) -> None:
    """Scratch holds the bias alone; the result is that of float64 up to one rounding of it, and of x (A s) B'."""
    layer = nn.Linear(64, 48, dtype=dtype)
    space = ParameterSpace(layer, shaped=True)
    point = tuple(Term(d, s) for d, s in zip(DirectionSource(0, form=FORMS[0]).at(0, 2), (0.5, 0.25), strict=True))
    view = ReadOnly(space)
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.no_grad():
        (seen,) = view.losses([point], lambda: layer(x))
        bent = [slot.weight.double() for slot in space.slots]
        for term in point:
            bent = [
                w + term.scale * draw(term.direction, s.window).double().view(w.shape)
                for w, s in zip(bent, space.slots, strict=True)
            ]
        exact = nn.functional.linear(x.double(), bent[0], bent[1].to(dtype).double())
    assert float((seen.double() - exact).abs().max()) < 8 * torch.finfo(dtype).eps * float(exact.abs().max())
    assert view._view.scratch_bytes < layer.weight.nbytes / 8


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_updates_are_the_definition(form: LowRank, dtype: torch.dtype) -> None:
    """x + s z in the accumulator, rounded once, whatever backend the vectors go through."""
    model = Tiny(dtype)
    space = ParameterSpace(model, shaped=True)
    before = [slot.weight.detach().float().clone() for slot in space.slots]
    (direction,) = DirectionSource(0, form=form).at(1)
    space.move_([Move((Term(direction, 0.125),))])
    for slot, old in zip(space.slots, before, strict=True):
        z = draw(direction, slot.window).view(old.shape)
        assert torch.equal(slot.weight.detach(), (old + 0.125 * z).to(dtype))


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_a_space_for_dense_directions_refuses_others(backend: str) -> None:
    space = ParameterSpace(Tiny(), backend_name=backend)
    (direction,) = DirectionSource(0, form=FORMS[0]).at(1)
    if backend == "cpu":
        with pytest.raises(UsageError, match="does not know"):
            space.move_([Move((Term(direction, 0.125),))])
    with pytest.raises(UsageError, match="zo_shape"):
        LowRank("thin", 1)
    with pytest.raises(UsageError, match="zo_rank"):
        LowRank("low_rank", 0)


def test_signs_of_products_are_refused_early_and_in_words() -> None:
    with pytest.raises(UsageError, match=r"zo_rule=sign needs dense .* zo_shape=subspace"):
        ZOSettings(zo_rule="sign", zo_shape="subspace")
    with pytest.raises(UsageError, match=r"zo_rule=sign needs dense .* zo_shape=low_rank"):
        make(Tiny(), rule="sign", form=FORMS[0])


@pytest.mark.parametrize(
    ("form", "rule", "perturbation"),
    [(form, "adam", "read_only") for form in FORMS]
    + [(FORMS[1], "momentum", "in_place"), (FORMS[2], "sgd", "in_place")],
    ids=str,
)
def test_resume_and_replay_are_exact(form: LowRank, rule: str, perturbation: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"form": form, "rule": rule, "directions": 2, "perturbation": perturbation}
    state = check_resume_and_replay(tmp_path, stop=7, resume_at=4, **settings)
    other = make(Tiny(), **{**settings, "form": None})
    with pytest.raises(UsageError, match="trained with form"):
        other.load_state_dict(state)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_descent_with_and_without_an_absurd_learning_rate(form: LowRank) -> None:
    """A tiny language model; and a quadratic at lr 1e3, which the monitor holds to the safe edge."""
    optimizer = make(Tiny(), form=form, directions=4)
    losses = steep_losses(optimizer, 0.01, 100)
    assert losses[-1] < 0.9 * losses[0]

    module, eye = nn.Linear(8, 6, bias=False), torch.eye(8)
    with torch.no_grad():
        module.weight.copy_(torch.randn(6, 8, generator=torch.Generator().manual_seed(0)))
    capped = ZOOptimizer(module, 1e3, eps=2.0**-6, directions=2, form=form, distribution="gaussian")
    govern(capped, StabilitySettings(stability="cap", stability_drift=None, stability_every=2, guard="off"))
    losses = [capped.step(lambda: module(eye).double().square().sum(0).sum() / 2) for _ in range(60)]
    assert max(losses) < 1.5 * losses[0] and losses[-1] < losses[0]  # type: ignore[operator,type-var]
    assert Rounding.NEAREST is capped.space.rounding
