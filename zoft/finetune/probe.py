"""`zoft probe recipe=NAME|PATH key=value …`: the curvature of a checkpoint on a task, and the learning rates it allows.

Takes the settings of a fine-tuning run (rule, momentum and directions count); nothing is trained or written. `stability_probes`
is the number of directions (16), `per_device_train_batch_size` the batch, `stability_radius` the radius (by rounding noise).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoft.config import RunConfig, load_config
from zoft.errors import UsageError
from zoft.finetune.asked_task import check_task

if TYPE_CHECKING:
    from zoft.stability.advice import Advice, Measured

DEFAULT_PROBES = 16
BATCHES = 8  # slopes are compared on this many batches for each probe direction
RAW = ("sgd", "momentum", "hizoo")  # rules whose learning rates are in weights^2 / loss


@dataclass(frozen=True)
class Report:
    """What was measured, and what follows for the run's own rule. Curvatures in loss / length^2."""

    measured: Measured
    noise: float  # delta [loss]
    lambda_max: tuple[float, float] | None  # bracket of the top eigenvalue (P7)
    advice: Advice | None  # None: the trace cannot be told from zero
    rule: str
    method: str  # rule, momentum and q, in words
    directions: int  # q
    asked: float | None  # learning_rate, where it was given as a number
    forwards: int
    notes: tuple[str, ...] = ()  # on the data

    def text(self) -> str:
        """For a person."""
        trace, (signal, error) = self.measured.trace, self.measured.signal.read()
        lines = [
            *self.notes,
            f"trace of the Hessian   {trace.value:.4g} +- {trace.standard_error:.2g}   (radius {trace.radius:.3g}, "
            f"rounding noise of a loss {self.noise:.2g})",
            f"signal fraction        {signal:.3f} +- {error:.3f}   (of a batch's squared gradient)",
        ]
        if self.advice is None or self.lambda_max is None:
            lines.append(
                f"with {trace.probes} probes the trace cannot be told from zero, so it sets no edge: take more "
                "(stability_probes), or measure again after some steps of training"
            )
        else:
            bottom, top = self.lambda_max
            lines.append(f"largest eigenvalue     {bottom:.3g} to {top:.3g}   (by the probes' variance)")
            lines += [
                f"learning rates of {self.method}{'' if self.rule in RAW else ', in units of the weights'}:",
                *self._rates(self.advice),
            ]
        return "\n".join([*lines, f"measured with {self.forwards} forward passes"])

    def _rates(self, advice: Advice) -> list[str]:
        edge, descent, best = advice.edge, advice.descent, advice.recommended
        words = "stable below, unstable above, on a full batch; optimistic for mini-batches"
        if advice.heavy != 1.0:
            words = "stable below the first, which is what counts: nothing closer is known of thin factors"
        if self.rule == "sign":
            words = "no edge: above it a step of this length stops descending, on a full batch"
        found = [
            f"edge of stability      {edge[0]:.3g} to {edge[1]:.3g}   ({words})",
            f"descent edge           {descent[0]:.3g} to {descent[1]:.3g}   (above it a step raises the expected loss)",
        ]
        if math.isfinite(advice.drift):
            found.append(
                f"drift bound            {advice.drift:.3g}   (a step may walk so far at most, relative to the weights)"
            )
        found.append(
            f"recommended            {best[0]:.2g} to {best[1]:.2g}   (to begin with, less as the signal falls: "
            "learning_rate=auto does that by itself)"
        )
        if self.asked is not None:
            s, grade = advice.grade(self.asked, self.measured, self.directions)
            place = "within" if best[0] <= self.asked <= best[1] else "below" if self.asked < best[0] else "above"
            found.append(
                f"asked for              {self.asked:.3g}   ({grade}: {s:.2g} of the edge; {place} the recommended range)"
            )
        return found


def main(argv: Sequence[str]) -> int:
    """Measures and prints; returns the exit code."""
    config = load_config(argv)
    check(config)
    print(measure(config).text())
    return 0


def check(config: RunConfig) -> None:
    """Raises UsageError where there is no such task, or no learning rate follows from a curvature."""
    if config.run.task == "eos":
        raise UsageError(
            "zoft probe measures a checkpoint on a task; the laboratory (task=eos) measures its own curvature"
        )
    check_task(config.run)
    from zoft.estimators import ESTIMATORS

    name = config.zo.zo_estimator
    if ESTIMATORS[name].normalised:
        raise UsageError(
            f"zoft probe turns curvature into learning rates of plain slopes, but zo_estimator={name} divides by the spread of "
            "the losses, and no closed form says how far such a step goes. Probe with zo_estimator=two_point for the "
            "curvature itself; in training learning_rate=auto and stability=cap measure each step of it"
        )


def measure(config: RunConfig) -> Report:
    """Probe the checkpoint that `config` names, on its training data.

    Raises:
        UsageError: nothing but rounding can be seen at any radius; or the settings are wrong.
    """
    import torch
    from accelerate import PartialState

    from zoft.directions.mask import Mask
    from zoft.estimators import estimator
    from zoft.finetune.materials import gather_materials
    from zoft.finetune.streamed import within_budget
    from zoft.rules import rule
    from zoft.stability.advice import advise
    from zoft.stability.monitor import Surroundings
    from zoft.stability.probes import Prober
    from zoft.stability.reference import reference_norm
    from zoft.stability.theory import lambda_max_bracket

    check(config)
    if config.run.reward is not None:
        raise UsageError(f"reward={config.run.reward} is a step function, which has no curvature; leave reward out")
    materials, zo = gather_materials(config.run), config.zo
    within_budget(config, materials.model)
    materials.model.to(PartialState().device)
    micro = int(config.training.get("per_device_train_batch_size", 16))
    size = min(micro * int(config.training.get("gradient_accumulation_steps", 1)), len(materials.train))
    if size < 2:
        raise UsageError(
            "the signal fraction compares the halves of a batch, and this batch is one example; take "
            "per_device_train_batch_size or gradient_accumulation_steps of 2 or more"
        )
    seed = int(config.training.get("seed", 0))
    order = torch.randperm(len(materials.train), generator=torch.Generator().manual_seed(seed)).tolist()
    rows = [order[start : start + size] for start in range(0, len(order) - size + 1, size)][:BATCHES]
    device = next(materials.model.parameters()).device
    batches = []
    for chosen in rows:
        parts = [[materials.train[row] for row in chosen[start : start + micro]] for start in range(0, size, micro)]
        collated = [materials.collator(part) for part in parts]
        batches.append([{name: value.to(device) for name, value in part.items()} for part in collated])
    examples: list[torch.Tensor] = []

    def loss() -> float:
        examples[:] = [torch.cat([materials.objective.losses(materials.model, p) for p in batch]) for batch in batches]
        return math.fsum(value for part in examples for value in part.tolist()) / (len(batches) * size)

    masked = zo.form if isinstance(zo.form, Mask) else None  # thin factors have the trace of dense directions
    prober = Prober(materials.model, loss, seed=seed, backend=zo.zo_backend, form=masked)
    radius, noise = prober.settle(zo.zo_eps)
    radius = zo.stability_radius or radius
    measured = _measure(
        prober, examples, radius, noise, zo.stability_probes or DEFAULT_PROBES, size / len(materials.train)
    )
    taken = estimator(zo.zo_estimator, eps=zo.zo_eps)
    around = Surroundings(
        rule(zo.zo_rule, **zo.rule_settings).settings(),
        zo.zo_directions,
        zo.zo_eps,
        prober.space.elements,
        reference_norm(materials.model, prober.space),
        forwards=len(taken.population(prober.source.at(0, zo.zo_directions))),
        lean=taken.lean,
        sizes=() if masked is None else (prober.space.elements_of(0, masked.density),),
        tail=None if zo.form is None else zo.form.tail(prober.space.matrices),
    )
    advice = advise(measured, around, zo)
    asked = config.training.get("learning_rate")
    bracket = None
    if advice is not None:
        bracket = lambda_max_bracket(measured.trace.value, max(measured.frobenius_squared.value, 0.0))
    momentum = f", beta={zo.zo_momentum:g}" if zo.zo_rule in ("momentum", "adam") else ""
    shape = "" if zo.form is None else f", zo_shape={zo.zo_shape}"
    return Report(
        measured=measured, noise=noise, lambda_max=bracket, advice=advice, rule=zo.zo_rule,
        method=f"zo_rule={zo.zo_rule}{momentum}{shape}, q={zo.zo_directions}", directions=zo.zo_directions,
        asked=float(asked) if isinstance(asked, (int, float)) else None, forwards=len(batches) * prober.forwards,
        notes=materials.notes,
    )  # fmt: skip


def _measure(prober: Any, examples: list[Any], radius: float, noise: float, count: int, fraction: float) -> Measured:
    """Second differences and slopes from the same losses; `examples` holds those of the last point, batch by batch."""
    from zoft.directions import Distribution
    from zoft.stability.advice import Measured
    from zoft.stability.averages import SignalFraction
    from zoft.stability.probes import Probes
    from zoft.stability.reading import second_difference

    (centre,) = prober.losses([()])
    signal, curvatures, slopes = SignalFraction(fraction), [], []
    for direction in prober.directions(count, Distribution.GAUSSIAN):  # their variance tells ||H||_F (P6)
        (above,) = prober.losses([prober.point(direction, radius)])
        plus = [part.double().cpu() for part in examples]
        (below,) = prober.losses([prober.point(direction, -radius)])
        minus = [part.double().cpu() for part in examples]
        curvatures.append(second_difference(above, below, centre, radius))
        for right, left in zip(plus, minus, strict=True):
            each = (right - left) / (2.0 * radius)  # [size] of the examples
            signal.add(float(each[0::2].mean() * each[1::2].mean()), float(each.mean() ** 2))
            slopes.append(float(each.mean()))
    probes = Probes(tuple(curvatures), centre, radius, noise)
    square = math.fsum(p * p for p in slopes) / len(slopes)
    return Measured(probes.trace, probes.frobenius_squared, signal, square, math.fsum(map(abs, slopes)) / len(slopes))
