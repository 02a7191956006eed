"""The laboratory's steps are the optimizer's steps."""

import math
from typing import Any

import pytest
import torch

from zoft.config import load_config
from zoft.directions import Distribution
from zoft.optimizer import ZOOptimizer
from zoft.stability import Guard, StabilitySettings, govern
from zoft.stability.lab.anchors import Anchors
from zoft.stability.lab.engine import Engine
from zoft.stability.lab.problem import example_losses, network
from zoft.stability.lab.run import Setup, experiment, run
from zoft.stability.lab.settings import LabSettings
from zoft.stability.monitor import StabilityMonitor, Surroundings
from zoft.stability.steering import Steering

INPUTS = torch.randn(40, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.arange(40) % 3
SIZES = (6, 5, 3)


@pytest.mark.parametrize(
    ("rule", "directions", "loss", "capped"),
    [
        ("sgd", 1, "cross_entropy", False),
        ("sgd", 3, "squared", True),
        ("momentum", 1, "squared", False),
        ("momentum", 1, "squared", True),
        ("adam", 2, "squared", False),
    ],
)
def test_steps_equal_those_of_the_optimizer(rule: str, directions: int, loss: Any, capped: bool) -> None:
    """In float64; the optimizer's momentum gets a window that forgets nothing and does not round to float32."""
    model = network(3, SIZES, torch.float64)
    steps, lr = 25, 0.5 if capped else 0.01
    settings = {"beta": 0.9, "window": 100} if rule != "sgd" else {}
    optimizer = ZOOptimizer(
        model,
        lr=lr,
        eps=1e-3,
        directions=directions,
        distribution="gaussian",
        seed=7,
        rule=rule,
        rule_settings=settings,
    )
    optimizer.rule.single = False
    engine = Engine(
        network(3, SIZES, torch.float64), INPUTS, LABELS, loss=loss, lr=lr, directions=directions, seed=7, rule=rule,
        distribution=Distribution.GAUSSIAN,
    )  # fmt: skip
    if capped:
        chosen = StabilitySettings(stability_every=3)
        govern(optimizer, chosen)
        around = Surroundings(
            optimizer.rule.settings(),
            directions,
            1e-3,
            engine.elements,
            float(engine.weights.norm()),
            1.0,
            rule_state=engine.rule_state,
        )
        engine.governor = Steering(StabilityMonitor(chosen, around), None)
        optimizer.governor.guard = None
    for _ in range(steps):
        optimizer.step(lambda: example_losses(model(INPUTS), LABELS, loss).mean())
        engine.step()
        assert engine.last_lr == pytest.approx(optimizer.last.lr, rel=1e-5)
        assert engine.last_loss == pytest.approx(optimizer.last.estimate.loss, rel=1e-9)
    mine = torch.cat([weight.detach().reshape(-1) for weight in model.parameters()])
    assert (engine.last_lr < lr) == capped
    torch.testing.assert_close(engine.weights, mine, rtol=1e-6, atol=1e-9)


def test_mini_batches_come_without_replacement() -> None:
    engine = Engine(network(0, SIZES, torch.float64), INPUTS, LABELS, lr=0.0, batch=10)
    seen = torch.cat([engine._next_rows() for _ in range(4)])
    assert sorted(seen.tolist()) == list(range(40))


def test_a_rewind_restores_weights_and_momentum_and_keeps_the_learning_rate() -> None:
    engine = Engine(network(0, SIZES, torch.float64), INPUTS, LABELS, lr=0.01, rule="momentum")
    engine.governor = steering = Steering(None, Guard(may_rewind=True))
    anchors, copies = Anchors(engine, steering), {}
    for _ in range(450):
        engine.step()
        anchors.look()
        copies[engine.steps] = engine.weights.clone(), engine._momentum.clone()
    for target in (400, 200):  # the newest copy; and, because that did not help, the one before it
        steering.rewind_wanted = True
        anchors.look()
        assert torch.equal(engine.weights, copies[target][0]) and torch.equal(engine._momentum, copies[target][1])
        engine.step()
    assert anchors.rewinds == [(450, 400), (451, 200)] and engine.steps == 452
    assert engine.last_lr == 0.01 and not torch.equal(engine.weights, copies[201][0])  # other directions than then


def test_a_cap_saves_the_run_that_is_lost_without_it() -> None:
    """The network of docs/math.md's measurements, plain descent at 0.1: five times what already blows up."""
    pytest.importorskip("sklearn")
    setup = Setup(lr=0.1, steps=300, rule="sgd")
    lost = experiment(setup, LabSettings(), StabilitySettings(stability="report", guard="off"), top=False)
    assert lost.blown is not None
    saved = experiment(setup, LabSettings(), StabilitySettings(), top=False)
    assert saved.blown is None and saved.rows[-1].loss < saved.rows[0].loss
    assert saved.rows[-1].ratio < 0.75  # half the edge, to the accuracy of a few free probes


def test_a_recipe_runs_and_leaves_numbers_and_a_figure(tmp_path, capsys) -> None:
    pytest.importorskip("sklearn")
    argv = [
        "recipe=eos-momentum", "max_steps=40", f"output_dir={tmp_path}", "eos_measure_every=20", "eos_images=60",
        "eos_trace_probes=4",
    ]  # fmt: skip
    outcome = run(load_config(argv, {}))
    assert {path.name for path in tmp_path.iterdir()} == {"eos.json", "eos.png"}
    assert [row.step for row in outcome.rows] == [20, 40] and "mean of the last third" in capsys.readouterr().out
    for row in outcome.rows:
        assert row.edge_high == pytest.approx(2 * (1 - 0.9) / row.trace) and row.edge_low < row.edge_high
        assert row.ratio == pytest.approx(row.lr * row.trace / 0.2) and 0 < row.lambda_max < row.trace
    assert math.isfinite(outcome.metrics["stability/trace"])
