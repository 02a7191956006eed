"""The stability monitor for a Trainer that uses gradients: sharpness against 2 / lr, from losses alone."""

from __future__ import annotations

import logging
import math
from collections import deque
from typing import Any

import torch
from transformers import Trainer, TrainerCallback

from zoft.distributed import gather
from zoft.errors import UsageError
from zoft.same_draws import kept_draws
from zoft.stability.monitor import LEVELS
from zoft.stability.probes import Prober
from zoft.stability.reading import Reading, trace_reading
from zoft.stability.theory import first_order_critical_lr, level
from zoft.trainer.constructor import trainer_being_built

logger = logging.getLogger(__name__)
HELD = 10  # readings, of which the smallest edge caps: each one sees one batch and one direction


class StabilityCallback(TrainerCallback):
    """`Trainer(..., callbacks=[StabilityCallback()])`: measures, logs, warns; lowers the learning rate only if asked.

    A first-order step is stable below 2 (1 + beta) / lambda_max, with Nesterov's momentum (1 + 2 beta) times lower, with
    torch's dampening tau 1 / (1 - tau) times higher (12). Along the gradient the curvature is the Rayleigh
    quotient g'Hg / ||g||^2 <= lambda_max, which the losses at w + r g/||g|| and w - r g/||g|| tell: right after the
    backward pass of a step, on the batch of that step, at the cost of two forwards and a centre. It is what the step
    itself will meet, and a lower bound of lambda_max. The trace comes from seeded Rademacher probes beside it.
    With `cap=True` the learning rate stays below margin x the smallest of the last 10 edges.
    Several processes measure along the same directions, each on its own micro-batch, and all take the mean: one reading,
    one cap.

    A zeroth-order trainer (ZOTrainer, or a Trainer with ZOCallback) has its own monitor; there this callback refuses.

    Adam and other preconditioned rules: the quotient is that of the raw Hessian and 2 / lr is no edge for them; the
    numbers are logged and no level is claimed.

    Raises:
        UsageError: the trainer is zeroth-order, or was not found.
    """

    def __init__(
        self, every: int = 50, probes: int = 2, radius: float = 2.0**-7, cap: bool = False, margin: float = 0.5
    ):
        if every < 1 or probes < 1 or not radius > 0.0 or not margin > 0.0:
            raise UsageError(
                f"StabilityCallback needs every >= 1, probes >= 1, radius > 0 and margin > 0, not {every}, {probes}, "
                f"{radius} and {margin}"
            )
        self.every, self.probes, self.radius, self.cap, self.margin = every, probes, radius, cap, margin
        self.metrics: dict[str, float] = {}
        self._trainer: Any = None
        self._inputs: Any = None
        self._warned = False
        self._edges: deque[float] = deque(maxlen=HELD)  # the last readings that told one

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.attach(trainer_being_built("StabilityCallback"))

    def attach(self, trainer: Trainer) -> Trainer:
        """Watch `trainer`. Returns it."""
        from zoft.trainer.mixin import ZOMixin

        if isinstance(trainer, ZOMixin):
            raise UsageError("a zeroth-order trainer has its own monitor: set stability=report or stability=cap")
        self._trainer = trainer
        step, log = trainer.training_step, trainer.log

        def training_step(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            self._inputs = inputs
            return step(model, inputs, *args, **kwargs)

        def log_with_metrics(logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
            if "loss" in logs:
                logs = {**logs, **self.metrics}
                if "stability/lr_used" in self.metrics and self.cap:
                    logs["learning_rate"] = self.metrics["stability/lr_used"]
            log(logs, *args, **kwargs)

        trainer.training_step = training_step  # type: ignore[method-assign]
        trainer.log = log_with_metrics  # type: ignore[method-assign]
        if self not in trainer.callback_handler.callbacks:
            trainer.add_callback(self)
        return trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._trainer is None:
            raise UsageError("StabilityCallback could not find its trainer; call StabilityCallback().attach(trainer)")

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Gradients are there and not yet spent."""
        if state.global_step % self.every == 0 and self._inputs is not None:
            self._measure(args, state, kwargs["model"], kwargs["optimizer"])
        if self.cap:  # the scheduler sets the rate anew after every step
            for group in kwargs["optimizer"].param_groups:
                group["lr"] = min(float(group["lr"]), self._limit)
            self.metrics["stability/lr_used"] = float(kwargs["optimizer"].param_groups[0]["lr"])

    @property
    def _limit(self) -> float:
        """The largest learning rate allowed: one batch's flat direction does not lift what others have set."""
        return self.margin * min(self._edges, default=math.inf)

    def _measure(self, args: Any, state: Any, model: Any, optimizer: Any) -> None:
        trainer = self._trainer
        inputs = trainer._prepare_inputs(self._inputs)
        weights = [weight for weight in model.parameters() if weight.requires_grad and weight.grad is not None]

        def loss() -> float:
            with torch.no_grad(), trainer.compute_loss_context_manager():
                return float(trainer.compute_loss(model, dict(inputs)))

        with kept_draws({weight.device for weight in model.parameters()}):
            prober = Prober(model, loss, seed=args.seed)
            curvatures = prober.probe(prober.directions(self.probes, step=state.global_step), self.radius, 0.0).values
            mine = (*curvatures, self._along_gradient(weights, prober))
        ranks = gather(mine)
        *probes, sharpness = (math.fsum(column) / len(ranks) for column in zip(*ranks, strict=True))
        self._report(optimizer, trace_reading(probes, self.radius), sharpness)

    def _along_gradient(self, weights: list[torch.Tensor], prober: Prober) -> float:
        """g'Hg / ||g||^2 by a second difference along the gradient; the weights are put back from a copy."""
        norm = math.sqrt(
            sum(float(weight.grad.double().square().sum()) for weight in weights if weight.grad is not None)
        )
        if not (norm > 0.0 and math.isfinite(norm)):
            return math.nan
        kept = [weight.detach().clone() for weight in weights]
        length = self.radius * math.sqrt(prober.space.elements)  # as far as a probe goes
        losses = []
        try:
            for sign in (1.0, -1.0, 0.0):
                with torch.no_grad():
                    for weight, start in zip(weights, kept, strict=True):
                        weight.copy_(start + sign * length / norm * weight.grad)  # type: ignore[operator]
                losses += prober.losses([()])
        finally:
            with torch.no_grad():
                for weight, start in zip(weights, kept, strict=True):
                    weight.copy_(start)
        return ((losses[0] - losses[2]) + (losses[1] - losses[2])) / length**2

    def _report(self, optimizer: Any, trace: Reading, sharpness: float) -> None:
        group = optimizer.param_groups[0]
        inner = getattr(optimizer, "optimizer", optimizer)
        lr, plain = float(group["lr"]), isinstance(inner, torch.optim.SGD)
        found = {"trace": trace.value, "trace_stderr": trace.standard_error, "sharpness": sharpness}
        found |= {"lr_requested": lr, "lr_used": lr}
        if plain and sharpness > 0.0:
            edge = sgd_edge(sharpness, group)
            self._edges.append(edge)
            used = min(lr, self._limit) if self.cap else lr
            found |= {"edge_high": edge, "level": float(LEVELS.index(level(used / edge)))}
            if lr > edge and not self.cap and not self._warned:
                self._warned = True
                logger.warning("learning rate %.3g is above %.3g, where gradient descent is no longer stable", lr, edge)
        self.metrics = {f"stability/{name}": value for name, value in found.items() if math.isfinite(value)}


def sgd_edge(sharpness: float, group: dict[str, Any]) -> float:
    """The largest stable learning rate of `torch.optim.SGD` with the settings in `group`, at this curvature; (12).

    >>> sgd_edge(1.0, {"momentum": 0.5, "dampening": 0.5, "nesterov": False})
    6.0
    """
    momentum, dampening = float(group.get("momentum", 0.0)), float(group.get("dampening", 0.0))
    if momentum == 0.0:  # torch reads neither of the others then
        return first_order_critical_lr(sharpness)
    edge = first_order_critical_lr(sharpness, momentum, nesterov=bool(group.get("nesterov", False)))
    return edge / (1.0 - dampening) if dampening < 1.0 else math.inf
