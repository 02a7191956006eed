"""Zeroth-order steps on the laboratory's network, as vectors: the arithmetic of `ZOOptimizer` at a tenth of its time.

All points of one step are evaluated in one batched pass, and momentum is one vector (exact heavy ball, where the
optimizer keeps a window of directions). Directions, monitor and theory are those of the rest of zoft.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from zoft.backends import Move, Target, Term, backend
from zoft.directions import Direction, DirectionSource, Distribution, Window
from zoft.governor import Evidence, Governor, ProbePoint
from zoft.naming import stream_ids
from zoft.stability.lab.problem import Loss, example_losses
from zoft.tally import Taken, taken


class Engine:
    """One training run of a Sequential of Linear and Tanh: `step()` takes its losses and moves the weights.

    rule: sgd, momentum (m <- beta m + g) or adam (scalar second moment, bias-corrected), as in `zoft.rules`.
    """

    def __init__(
        self,
        model: nn.Sequential,
        inputs: torch.Tensor,
        labels: torch.Tensor,
        *,
        loss: Loss = "squared",
        lr: float,
        eps: float = 1e-3,
        directions: int = 1,
        distribution: Distribution = Distribution.GAUSSIAN,
        seed: int = 0,
        rule: str = "sgd",
        beta: float = 0.9,
        beta2: float = 0.99,
        batch: int | None = None,
    ) -> None:
        self.model, self.inputs, self.labels = model, inputs, labels
        self.loss: Loss = loss
        self.lr, self.eps, self.directions, self.rule, self.beta, self.beta2 = lr, eps, directions, rule, beta, beta2
        self.source = DirectionSource(seed, distribution)
        self.batch = batch if batch is not None and batch < len(inputs) else None
        self._order = torch.Generator().manual_seed(seed)
        self._rows: list[int] = []
        weights = dict(model.named_parameters())
        self.shapes = [weight.shape for weight in weights.values()]
        self.weights = torch.cat([weight.detach().reshape(-1) for weight in weights.values()])  # [d]
        self.elements = self.weights.numel()
        streams = stream_ids(weights)
        sizes = [math.prod(shape) for shape in self.shapes]
        self._z = torch.zeros_like(self.weights)
        self._targets = [
            Target(part.view(shape), Window.whole(streams[name], shape))
            for name, part, shape in zip(weights, self._z.split(sizes), self.shapes, strict=True)
        ]
        self._sizes = sizes
        self._backend = backend("auto", "cpu")
        self._momentum = torch.zeros_like(self.weights)
        self._v, self._spent = 0.0, 0
        self.governor: Governor | None = None
        self.steps, self.refused = 0, 0
        self.last_loss = self.last_lr = math.nan

    def rule_state(self) -> dict[str, float]:
        """What adam's next step takes from the steps before."""
        return {"v": self._v, "spent": self._spent}

    def draw(self, direction: Direction) -> torch.Tensor:
        """z [d], a copy."""
        self._z.zero_()
        self._backend.sweep_(self._targets, [Move((Term(direction, 1.0),))])
        return self._z.clone()

    def outputs(self, weights: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        """Outputs [P, B, C] of the network at P points [P, d]; differentiable."""
        points = weights.shape[0]
        parts = weights.split(self._sizes, dim=1)
        hidden = inputs.expand(points, *inputs.shape)
        for layer in range(0, len(parts), 2):
            matrix = parts[layer].reshape(points, *self.shapes[layer])
            hidden = torch.baddbmm(parts[layer + 1].unsqueeze(1), hidden, matrix.transpose(1, 2))
            if layer + 2 < len(parts):
                hidden = hidden.tanh()
        return hidden

    def losses_at(self, weights: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        """Losses of the examples [P, B] at P points [P, d]."""
        inputs, labels = (self.inputs, self.labels) if rows is None else (self.inputs[rows], self.labels[rows])
        return example_losses(self.outputs(weights, inputs), labels, self.loss)

    def full_loss(self, weights: torch.Tensor) -> torch.Tensor:
        """The loss over all images, at [d]; differentiable, for Hessian-vector products."""
        return self.losses_at(weights.unsqueeze(0)).mean()

    @torch.no_grad()
    def step(self) -> None:
        """One optimizer step."""
        directions = self.source.at(self.steps, self.directions)
        noise = torch.stack([self.draw(direction) for direction in directions])  # [q, d]
        asked: tuple[ProbePoint, ...] = () if self.governor is None else self.governor.request(self.steps).points
        moved = torch.stack([self.eps * noise, -self.eps * noise], dim=1).reshape(-1, self.elements)  # +z1, -z1, +z2 …
        points = torch.cat([moved, self._displacements(asked)]) if asked else moved
        examples = self.losses_at(self.weights + points, self._next_rows())  # [P, B]
        seen = [self._taken(row) for row in examples] if self.governor is not None else []
        means = [value for value, _, _ in seen] if seen else examples.double().mean(1).tolist()
        slopes = self._slopes(means)
        self.last_loss, self.last_lr = math.fsum(means[: 2 * self.directions]) / (2 * self.directions), self.lr
        spend = math.isfinite(self.last_loss)
        if self.governor is not None:
            spend = self._govern(self.governor, seen, slopes) and spend
        if spend:
            self._move(torch.tensor(slopes, dtype=noise.dtype) @ noise / self.directions, slopes)
        self.refused += not spend
        self.steps += 1

    def _slopes(self, losses: Sequence[float]) -> tuple[float, ...]:
        pairs = range(0, 2 * self.directions, 2)
        return tuple((losses[i] - losses[i + 1]) / (2.0 * self.eps) for i in pairs)

    def _govern(self, governor: Governor, seen: list[Taken], slopes: tuple[float, ...]) -> bool:
        count = 2 * self.directions
        halves = None
        if self.batch is not None:  # halves of the whole set differ, but not by chance
            halves = (self._slopes([t[1] for t in seen]), self._slopes([t[2] for t in seen]))
        pairs = tuple((seen[i][0], seen[i + 1][0]) for i in range(0, count, 2))
        points = tuple(value for value, _, _ in seen[count:])
        evidence = Evidence(self.steps, self.lr, self.last_loss, slopes, halves, pairs, self.eps, points)
        decision = governor.decide(evidence)
        self.last_lr = decision.lr
        return not decision.refused

    def _taken(self, examples: torch.Tensor) -> Taken:
        if self.batch is None:
            value = float(examples.double().mean())
            return value, math.nan, math.nan
        return taken(examples)

    def _displacements(self, asked: Sequence[ProbePoint]) -> torch.Tensor:
        count = 1 + max((index for point in asked for index, _ in point), default=-1)
        probes = [self.draw(direction) for direction in self.source.probes_at(self.steps, count)]
        rows = torch.zeros(len(asked), self.elements, dtype=self.weights.dtype)
        for row, point in zip(rows, asked, strict=True):
            for index, scale in point:
                row.add_(probes[index], alpha=scale)
        return rows

    def _move(self, gradient: torch.Tensor, slopes: Sequence[float]) -> None:
        if self.rule == "sgd":
            self.weights -= self.last_lr * gradient
            return
        share = 1.0 if self.rule == "momentum" else 1.0 - self.beta
        self._momentum.mul_(self.beta).add_(gradient, alpha=share)
        self._spent += 1
        scale = self.last_lr
        if self.rule == "adam":
            square = math.fsum(p * p for p in slopes) / len(slopes) ** 2
            self._v = self.beta2 * self._v + (1.0 - self.beta2) * square
            root = math.sqrt(self._v / (1.0 - self.beta2**self._spent)) + 1e-8
            scale /= (1.0 - self.beta**self._spent) * root
        self.weights.add_(self._momentum, alpha=-scale)

    def _next_rows(self) -> torch.Tensor | None:
        if self.batch is None:
            return None
        if len(self._rows) < self.batch:
            self._rows = torch.randperm(len(self.inputs), generator=self._order).tolist()
        rows, self._rows = self._rows[: self.batch], self._rows[self.batch :]
        return torch.tensor(rows)
