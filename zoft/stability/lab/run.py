"""One laboratory run: steps, and every so often the true trace and top eigenvalue, a figure and a table at the end."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from zoft.directions import Direction, Distribution, Domain
from zoft.errors import UsageError
from zoft.stability.guard import Guard
from zoft.stability.hessian import HessianProducts, hutchinson_trace, lambda_max
from zoft.stability.lab.anchors import Anchors
from zoft.stability.lab.engine import Engine
from zoft.stability.lab.problem import digits, network
from zoft.stability.lab.settings import LabSettings
from zoft.stability.monitor import StabilityMonitor, Surroundings
from zoft.stability.settings import StabilitySettings
from zoft.stability.spending import Gain
from zoft.stability.steering import Steering
from zoft.stability.theory import band, first_order_critical_lr

BLOWN = 1e6  # a loss beyond this many times the first one is a blow-up


@dataclass(frozen=True)
class Setup:
    """What a laboratory run is, in its own words."""

    lr: float = 1.2e-3
    steps: int = 60_000
    rule: str = "momentum"
    beta: float = 0.9
    beta2: float = 0.99
    eps: float = 1e-3
    directions: int = 1
    gaussian: bool = True
    seed: int = 0
    batch: int | None = None  # None: full batch


@dataclass(frozen=True)
class Row:
    """One measurement. Curvatures in loss / length^2; nan where it was not measured."""

    step: int
    loss: float
    lr: float
    trace: float
    trace_error: float
    lambda_max: float
    edge_low: float  # (6), as learning rates
    edge_high: float

    @property
    def ratio(self) -> float:
        """s = lr / edge_high, equation (15)."""
        return self.lr / self.edge_high


@dataclass(frozen=True)
class Outcome:
    """A finished run."""

    setup: Setup
    lab: LabSettings
    rows: tuple[Row, ...]
    blown: int | None  # step at which the loss was lost
    metrics: dict[str, float]  # of the monitor at the end
    rewinds: tuple[tuple[int, int], ...] = ()  # of guard=rewind: (from step, to the weights of step)

    def mean_ratio(self, share: float = 1.0 / 3.0) -> float:
        """s averaged over the last `share` of the measurements."""
        last = self.rows[-max(1, round(len(self.rows) * share)) :]
        return math.fsum(row.ratio for row in last) / len(last)


def experiment(
    setup: Setup, lab: LabSettings | None = None, stability: StabilitySettings | None = None, top: bool = True
) -> Outcome:
    """Train once and measure along the way; `stability` None: nobody watches. `top`: measure lambda_max as well."""
    lab = LabSettings() if lab is None else lab
    if lab.eos_first_order:
        return _first_order(setup, lab)
    inputs, labels = digits(lab.eos_images)
    engine = Engine(
        network(setup.seed), inputs, labels, loss=lab.eos_loss, lr=setup.lr, eps=setup.eps, seed=setup.seed,
        directions=setup.directions, rule=setup.rule, beta=setup.beta, beta2=setup.beta2, batch=setup.batch,
        distribution=Distribution.GAUSSIAN if setup.gaussian else Distribution.RADEMACHER,
    )  # fmt: skip
    rule = {"name": setup.rule, "beta": setup.beta if setup.rule != "sgd" else 0.0, "beta2": setup.beta2}
    steering = _steering(engine, rule, setup, stability, len(inputs))
    anchors = Anchors(engine, steering) if steering is not None and steering.guard is not None else None
    gain, rows, blown = Gain(rule), [], None
    every = lab.eos_measure_every or max(1, setup.steps // 60)
    first = math.nan
    slopes_rms = 1.0
    for step in range(setup.steps):
        if step == lab.eos_raise_at:
            engine.lr *= lab.eos_raise_by
        engine.step()
        if anchors is not None and stability is not None and stability.guard == "rewind":
            anchors.look()
        first = engine.last_loss if step == 0 else first
        slopes_rms = math.sqrt(max(engine._v, 1e-300)) if setup.rule == "adam" else slopes_rms
        if not engine.last_loss < BLOWN * max(first, 1e-3):
            blown = step
            break
        if (step + 1) % every == 0:
            scale = 1.0 / slopes_rms if setup.rule == "adam" else gain.now((0.0,), {})
            rows.append(_measure(engine, lab, step + 1, scale, setup, top))
    metrics = {} if steering is None else steering.metrics()
    return Outcome(setup, lab, tuple(rows), blown, metrics, () if anchors is None else tuple(anchors.rewinds))


def _steering(
    engine: Engine, rule: dict[str, Any], setup: Setup, stability: StabilitySettings | None, images: int
) -> Steering | None:
    if stability is None or (stability.stability == "off" and stability.guard == "off"):
        return None
    around = Surroundings(
        rule, setup.directions, setup.eps, engine.elements, float(engine.weights.norm()),
        1.0 if setup.batch is None else setup.batch / images,
        rule_state=engine.rule_state,
    )  # fmt: skip
    guard = None
    if stability.guard != "off":
        rewinding = stability.guard == "rewind"
        guard = Guard(stability.guard_threshold, stability.guard_patience, rewinding, stability.guard_rise)
    steering = Steering(StabilityMonitor(stability, around) if stability.stability != "off" else None, guard)
    engine.governor = steering
    return steering


def _measure(engine: Engine, lab: LabSettings, step: int, gain: float, setup: Setup, top: bool) -> Row:
    """Hutchinson and power iteration over all images, by Hessian-vector products."""
    weights = engine.weights.clone().requires_grad_(True)
    products = HessianProducts(lambda: engine.full_loss(weights), [weights])
    probes = [
        [engine.draw(Direction(setup.seed, step, index, Distribution.RADEMACHER, Domain.PROBE))]
        for index in range(lab.eos_trace_probes)
    ]
    trace = hutchinson_trace(products, probes)
    largest = lambda_max(products, tolerance=1e-2) if top else math.nan
    low = high = math.nan
    if trace.value > 0.0:
        momentum = setup.beta if setup.rule != "sgd" else 0.0
        plain = gain * (1.0 - momentum) if setup.rule == "momentum" else gain  # 1, or 1 / P of adam
        ema = setup.rule == "adam"
        bound = min(largest, trace.value) if top and largest > 0.0 else trace.value
        low, high = (
            edge / plain for edge in band(trace.value, bound, momentum=momentum, directions=setup.directions, ema=ema)
        )
    return Row(step, engine.last_loss, engine.last_lr, trace.value, trace.standard_error, largest, low, high)


def _first_order(setup: Setup, lab: LabSettings) -> Outcome:
    """Gradient descent, with heavy ball where the rule says so, on the same network; edge 2 (1 + beta) / lambda_max."""
    inputs, labels = digits(lab.eos_images)
    engine = Engine(network(setup.seed), inputs, labels, loss=lab.eos_loss, lr=setup.lr)
    beta = setup.beta if setup.rule == "momentum" else 0.0
    every = lab.eos_measure_every or max(1, setup.steps // 60)
    velocity, rows, blown, lr = torch.zeros_like(engine.weights), [], None, setup.lr
    for step in range(setup.steps):
        lr = lr * lab.eos_raise_by if step == lab.eos_raise_at else lr
        weights = engine.weights.clone().requires_grad_(True)
        loss = engine.full_loss(weights)
        (gradient,) = torch.autograd.grad(loss, weights)
        velocity = beta * velocity + gradient
        engine.weights = engine.weights - lr * velocity
        engine.last_loss, engine.last_lr = float(loss.detach()), lr
        if not math.isfinite(engine.last_loss) or engine.last_loss > BLOWN:
            blown = step
            break
        if (step + 1) % every == 0:
            row = _measure(engine, lab, step + 1, 1.0, setup, True)
            edge = first_order_critical_lr(row.lambda_max, beta) if row.lambda_max > 0.0 else math.nan
            rows.append(Row(**{**asdict(row), "edge_low": edge, "edge_high": edge}))
    return Outcome(setup, lab, tuple(rows), blown, {})


def run(config: Any) -> Outcome:
    """What `zoft finetune recipe=eos-…` does: train, write `eos.json` and `eos.png`, say how it ended.

    Args:
        config: `zoft.config.RunConfig` with task eos.

    Raises:
        UsageError: a setting that the laboratory cannot honour.
    """
    setup = _setup(config)
    outcome = experiment(setup, config.lab, config.zo)
    folder = Path(config.training.get("output_dir") or Path(config.run.runs_dir) / (config.recipe or "eos"))
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "setup": asdict(setup), "lab": asdict(config.lab), "blown": outcome.blown, "monitor": outcome.metrics,
        "rewinds": outcome.rewinds,
        "rows": [asdict(row) for row in outcome.rows],
    }  # fmt: skip
    (folder / "eos.json").write_text(json.dumps(record, indent=1))
    from zoft.stability.lab.figure import draw_figure

    draw_figure(outcome, folder / "eos.png")
    print(closing_words(outcome))
    print(f"figure and numbers in {folder}")
    return outcome


def closing_words(outcome: Outcome) -> str:
    """How a run ended, in one or two lines."""
    if outcome.blown is not None:
        return f"the loss was lost at step {outcome.blown}"
    back = f"\nrewound {len(outcome.rewinds)} times at the same learning rate" if outcome.rewinds else ""
    last = outcome.rows[-1]
    return (
        f"step {last.step}: loss {last.loss:.4g}, trace {last.trace:.4g} +- {last.trace_error:.2g}, lambda_max "
        f"{last.lambda_max:.4g}\nlearning rate / right edge, mean of the last third: {outcome.mean_ratio():.3f}{back}"
    )


def _setup(config: Any) -> Setup:
    zo, training = config.zo, config.training
    lr = training.get("learning_rate", Setup.lr)
    if isinstance(lr, str):
        raise UsageError("task=eos watches a learning rate that is given; learning_rate=auto belongs to fine-tuning")
    if zo.zo_rule not in ("sgd", "momentum", "adam"):
        raise UsageError(f"task=eos knows zo_rule sgd, momentum and adam, not {zo.zo_rule}")
    if zo.zo_estimator != "two_point":
        raise UsageError(f"task=eos knows zo_estimator two_point, not {zo.zo_estimator}")
    for name in ("zo_shape", "zo_blocks", "zo_directions_schedule"):
        if getattr(zo, name) != getattr(type(zo), name):
            raise UsageError(
                f"task=eos takes dense steps of all weights, with one q; leave {name}={getattr(zo, name)} out"
            )
    if zo.zo_distribution == "sphere":
        raise UsageError("task=eos knows zo_distribution rademacher and gaussian, not sphere")
    batch = training.get("per_device_train_batch_size")
    return Setup(
        lr=lr, steps=int(training.get("max_steps", Setup.steps)), rule=zo.zo_rule, beta=zo.zo_momentum,
        beta2=zo.zo_beta2, eps=zo.zo_eps, directions=zo.zo_directions, gaussian=zo.zo_distribution == "gaussian",
        seed=training.get("seed", 0) if zo.zo_seed is None else zo.zo_seed,
        batch=None if batch is None or batch >= config.lab.eos_images else batch,
    )  # fmt: skip
