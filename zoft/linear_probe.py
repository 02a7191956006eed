"""A linear classifier on a frozen model's hidden states: what they tell, before anything is tuned (Alain & Bengio 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from zoft.evaluate import in_batches
from zoft.objectives import Batch
from zoft.objectives.forward import accepted_arguments
from zoft.tasks.collate import Collator
from zoft.tasks.encoded import Encoded

PENALTIES = (1.0, 0.1, 0.01, 1e-3, 1e-4)  # of the squared weights, per example; the dev split chooses


def hidden_states(model: Any, dataset: Sequence[Encoded], collator: Collator, batch_size: int = 32) -> torch.Tensor:
    """[n, D] float32: the last layer's state at the prompt's last token (causal), at the mask, or the mean over the text
    (an encoder under a classification head).

    Raises:
        UsageError: no examples.
    """
    base = _base(model)
    found: dict[int, torch.Tensor] = {}

    def read(numbers: Sequence[int], items: Sequence[Encoded], batch: Batch) -> None:
        ids, mask = batch["input_ids"], batch["attention_mask"]
        arguments = {"input_ids": ids, "attention_mask": mask}
        if "position_ids" in accepted_arguments(base):
            arguments["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
        if collator.architecture != "causal":  # encoders number their positions themselves
            arguments.pop("position_ids", None)
        states = base(**arguments).last_hidden_state.float()  # [B, T, D]
        rows = torch.arange(len(items), device=ids.device)
        if collator.architecture == "causal":
            states = states[:, -1]  # padded on the left
        elif collator.architecture == "masked":
            states = states[rows, batch["read_at"]]
        else:
            real = mask.unsqueeze(-1).float()
            states = (states * real).sum(dim=1) / real.sum(dim=1)
        found.update(zip(numbers, states.cpu(), strict=True))

    prompts = [Encoded((item.rows[0]._replace(ids=item.prompt_ids, answer=()),), item.gold, item.row, item.choices or (0,),
                       item.read_at) for item in dataset]  # fmt: skip
    in_batches(model, prompts, collator, batch_size, read)
    return torch.stack([found[number] for number in range(len(prompts))])


@dataclass(frozen=True)
class LinearProbe:
    """scores = ((h - mean) / spread) W + b."""

    mean: torch.Tensor  # [D]
    spread: torch.Tensor  # [D]
    weight: torch.Tensor  # [D, L]
    bias: torch.Tensor  # [L]

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """[n, L] of states [n, D]."""
        return ((states.double() - self.mean) / self.spread) @ self.weight + self.bias

    @classmethod
    def fitted(cls, states: torch.Tensor, labels: torch.Tensor, classes: int, penalty: float) -> LinearProbe:
        """Multinomial logistic regression: mean cross-entropy + penalty / 2 ||W||^2, convex, by L-BFGS in float64."""
        states = states.double()
        mean, spread = states.mean(dim=0), states.std(dim=0, correction=0).clamp(min=1e-6)
        scaled = (states - mean) / spread
        weight = torch.zeros(states.shape[1], classes, dtype=torch.float64, requires_grad=True)
        bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
        solver = torch.optim.LBFGS([weight, bias], max_iter=500, tolerance_grad=1e-7, line_search_fn="strong_wolfe")

        def closure() -> torch.Tensor:
            solver.zero_grad()
            loss = functional.cross_entropy(scaled @ weight + bias, labels) + penalty / 2 * weight.square().sum()
            loss.backward()
            return loss

        with torch.enable_grad():
            solver.step(closure)
        return cls(mean, spread, weight.detach(), bias.detach())


def chosen_probe(
    train: tuple[torch.Tensor, torch.Tensor], dev: tuple[torch.Tensor, torch.Tensor] | None, classes: int
) -> tuple[LinearProbe, float]:
    """The probe whose penalty does best on dev, (states, labels), and that penalty; 0.01 where there is no dev.

    Of penalties that do equally well the largest is taken. The test split has no part in this.
    """
    if dev is None:
        return LinearProbe.fitted(*train, classes, 0.01), 0.01
    best: tuple[float, LinearProbe, float] | None = None
    for penalty in PENALTIES:
        probe = LinearProbe.fitted(*train, classes, penalty)
        right = (probe(dev[0]).argmax(dim=1) == dev[1]).double().mean().item()
        if best is None or right > best[0]:
            best = (right, probe, penalty)
    assert best is not None
    return best[1], best[2]


def _base(model: Any) -> nn.Module:
    """The model without the head that makes logits."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return inner.base_model
