"""The contract of an objective: what a batch costs, and how it scores the candidates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

Batch = Mapping[str, torch.Tensor]  # as zoft.tasks.collate.Collator makes it; -1 in place of a missing candidate
IGNORED = -100  # label of a token that carries no loss, as everywhere in Transformers


@dataclass(frozen=True)
class Scored:
    """What one pass over a batch of B examples tells."""

    losses: torch.Tensor  # [B] float32, in nats
    scores: torch.Tensor  # [B, C] float32, larger is better; -inf where an example has no such candidate
    gold: torch.Tensor  # [B] index of the right candidate


class Objective(ABC):
    """Forward passes only; nothing here asks for gradients, and nothing prevents them."""

    name: str
    # whether the loss of an example depends on its own rows alone, however many others the batch has
    rows_apart = False

    @abstractmethod
    def evaluate(self, model: nn.Module, batch: Batch) -> Scored:
        """Losses and scores of a batch."""

    def losses(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """The loss of each example, [B] float32."""
        return self.evaluate(model, batch).losses

    def scores(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """The score of each candidate, [B, C] float32."""
        return self.evaluate(model, batch).scores

    def metrics(self) -> dict[str, float]:
        """What the objective adds to the log, over the losses since the last call."""
        return {}

    def __call__(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """The mean loss over the examples, float32 and without dimensions."""
        return self.losses(model, batch).mean()
