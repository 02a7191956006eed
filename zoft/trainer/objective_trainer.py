"""`transformers.Trainer` with an objective in place of the model's own loss."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from zoft.products import wide_products
from zoft.trainer.refused import check_smoothing
from zoft.trainer.renamed import RenamedWeights


class ObjectiveTrainer(RenamedWeights, Trainer):
    """All of Trainer's arguments keep their names and meaning; the loss, and what `evaluate` predicts, is the objective's."""

    def __init__(
        self,
        model: nn.Module | Any = None,
        args: TrainingArguments | None = None,
        *,
        objective: Any = None,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            model, args and all keyword arguments of `transformers.Trainer`.
            objective: `zoft.objectives.Objective`, how a batch is scored; None: the loss that the model returns.

        Raises:
            UsageError: labels are to be smoothed, which an objective does not do.
        """
        if objective is not None and args is not None:
            check_smoothing(args.label_smoothing_factor, "an objective")
        self.objective: Any = objective
        self.forwards = 0  # losses of micro-batches taken in training on this rank; evaluations do not count
        super().__init__(model, args, **kwargs)
        if objective is not None:
            self.loss_is_scaled_for_ga = False  # an objective returns the mean over its batch

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The objective's loss where there is one, otherwise the model's own."""
        self.forwards += 1
        if self.objective is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss = self.objective(model, inputs)
        return (loss, {"loss": loss}) if return_outputs else loss

    def compute_loss_context_manager(self) -> ExitStack:
        """As `Trainer.compute_loss_context_manager`; without gradients, 16-bit products are as quick as the processor can."""
        stack, model = super().compute_loss_context_manager(), self.model
        if model is not None and not torch.is_grad_enabled():
            stack.enter_context(wide_products(model.parameters()))
        return stack

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As `Trainer.log`, with what the objective says of itself beside the loss."""
        if self.objective is not None and "loss" in logs:
            logs = {**logs, **getattr(self.objective, "metrics", dict)()}
        super().log(logs, *args, **kwargs)

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """With an objective: its loss, its scores [batch, candidates] as predictions, and the gold candidates as labels."""
        if self.objective is None:
            counted = self.forwards
            result = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
            self.forwards = counted
            return result
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            scored = self.objective.evaluate(model, inputs)
        if prediction_loss_only:
            return scored.losses.mean(), None, None
        return scored.losses.mean(), scored.scores, scored.gold
