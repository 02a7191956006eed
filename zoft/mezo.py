"""MeZO as it was published, for comparison (Malladi et al. 2023, algorithm 1 and its released Trainer).

Not a way to train with zoft: `ZOOptimizer` is. What it does differently is what zoft is measured against:

- z is Gaussian, drawn anew from a seed each time it is needed, one parameter after the other, in the parameter's own
dtype;
- z is added to the weights themselves (+eps, -2 eps, +eps) and every addition rounds to the weights' dtype;
- the update is a fourth pass: w <- w - lr (c z + weight decay * w), in the weights' dtype;
- weight decay is skipped for names with `bias`, `layer_norm` or `layernorm` in them;
- the loss it reports is that at w + eps z, and a loss that is not finite is spent like any other.

Two things differ from the released Trainer. The global random generator is not touched: every parameter's z comes from
a generator of our own. Micro-batches and processes are averaged (there, only the last micro-batch's slope is spent).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from zoft.errors import UsageError
from zoft.limits import check_not_negative, check_positive, check_seed
from zoft.perturb import evaluation_mode
from zoft.streaming.stream import streamed
from zoft.tally import Part, taken, total

NO_DECAY = ("bias", "layer_norm", "layernorm")
SEEDS = 1_000_000_000  # step seeds are drawn from [0, 10^9)
Loss = Callable[[], torch.Tensor | float]


class MeZO(torch.optim.Optimizer):
    """`step(closure)`, or `accumulate(closure)` and `step()`, like `ZOOptimizer`; by MeZO's own procedure.

    >>> model = nn.Linear(4, 1)
    >>> x = torch.ones(8, 4)
    >>> optimizer = MeZO(model, lr=0.01)
    >>> losses = [optimizer.step(lambda: (model(x) - 3.0).square().mean()) for _ in range(300)]
    >>> losses[-1] < 0.01 * losses[0]
    True
    """

    def __init__(
        self, model: nn.Module, lr: float, *, eps: float = 1e-3, weight_decay: float = 0.0, seed: int = 0
    ) -> None:
        """
        Args:
            model: any module; its parameters with requires_grad are trained.
            lr: learning rate, in squared weight units per unit of loss.
            eps: radius of the perturbation, in units of the weights.
            weight_decay: decoupled, per unit of lr.
            seed: of the run; every step's seed follows from it.

        Raises:
            UsageError: nothing is trainable, or a number is out of range.
        """
        check_not_negative("learning_rate", lr)
        check_not_negative("weight_decay", weight_decay)
        check_positive("eps", eps)
        check_seed("seed", seed)
        if streamed(model) is not None:
            raise UsageError(
                "MeZO writes all weights in place four times a step; stream a model with zoft.ZOOptimizer only"
            )
        self.model, self.eps = model, eps
        self.named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
        if not self.named:
            raise UsageError("there is nothing to train: every parameter of the model has requires_grad=False")
        self.seed = seed
        self.steps = 0  # optimizer steps so far
        self.skipped = 0  # it never skips one
        self.directions = 1
        self.forwards = 2  # of a micro-batch in a step
        self.last: float | None = None  # the projected gradient of the last step
        self._parts: list[Part] = []  # the micro-batches of the step to come
        self._generators = {
            device: torch.Generator(device) for device in dict.fromkeys(weight.device for _, weight in self.named)
        }
        super().__init__([weight for _, weight in self.named], {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def accumulate(self, closure: Loss, divisor: int | None = None, *, hold: bool = False) -> float:
        """The two losses of one micro-batch, noise added and taken off again; returns the loss at w + eps z.

        Args:
            divisor: as in `ZOOptimizer.accumulate`.
            hold: allowed, but without effect: noise is taken off at once.
        """
        seed, way_back = self.seed_of(self.steps), 0.0
        try:
            with evaluation_mode(self.model):
                self.perturb_(seed, 1.0)
                way_back = -1.0
                plus = taken(closure())
                self.perturb_(seed, -2.0)
                way_back = 1.0
                minus = taken(closure())
        finally:  # also where the loss raised
            if way_back:
                self.perturb_(seed, way_back)
        self._parts.append(Part([plus, minus], divisor))
        return plus[0]

    @torch.no_grad()
    def step(self, closure: Loss | None = None) -> float | None:  # type: ignore[override]
        """One update; returns the loss at w + eps z, or None if nothing was evaluated since the last step."""
        if closure is not None:
            self.accumulate(closure)
        if not self._parts:
            return None
        parts, self._parts = self._parts, []
        plus, minus = total(parts, points=2, split=False).whole
        self.last = (plus - minus) / (2.0 * self.eps)
        self.update_(self.seed_of(self.steps), self.last)
        self.steps += 1
        return plus

    def discard(self) -> None:
        """Forget the losses taken since the last step."""
        self._parts = []

    def seed_of(self, step: int) -> int:
        """The seed of one step's z: uniform in [0, 10^9), independent from step to step."""
        return random.Random(self.seed << 64 | step).randrange(SEEDS)

    def draws(self, seed: int) -> Iterator[tuple[str, nn.Parameter, torch.Tensor]]:
        """(name, weight, z) of every trained parameter, z in the weight's dtype and as MeZO draws it."""
        for generator in self._generators.values():
            generator.manual_seed(seed)
        for name, weight in self.named:
            z = torch.empty_like(weight).normal_(generator=self._generators[weight.device])
            yield name, weight, z

    @torch.no_grad()
    def perturb_(self, seed: int, scale: float) -> None:
        """w <- w + scale z eps, each product and the sum rounded to the weight's dtype."""
        for _, weight, z in self.draws(seed):
            weight.copy_(weight + scale * z * self.eps)

    @torch.no_grad()
    def update_(self, seed: int, coefficient: float) -> None:
        """w <- w - lr (coefficient z + weight_decay w)."""
        group: dict[str, Any] = self.param_groups[0]
        lr, decay = float(group["lr"]), float(group["weight_decay"])
        for name, weight, z in self.draws(seed):
            if any(word in name for word in NO_DECAY):
                weight.copy_(weight - lr * (coefficient * z))
            else:
                weight.copy_(weight - lr * (coefficient * z + decay * weight))

    def state_dict(self) -> dict[str, Any]:
        """Torch's state, the run's seed and the number of steps."""
        return {**super().state_dict(), "mezo": {"seed": self.seed, "steps": self.steps}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken.

        Raises:
            UsageError: it is another method's, or a run's with another seed.
        """
        state_dict = dict(state_dict)
        mine = state_dict.pop("mezo", None)
        if mine is None:
            raise UsageError("the checkpoint's optimizer state is not MeZO's; go on with the method that wrote it")
        if mine["seed"] != self.seed:
            raise UsageError(f"the checkpoint was trained with seed {mine['seed']}, this run has {self.seed}")
        super().load_state_dict(state_dict)
        self.steps = mine["steps"]
