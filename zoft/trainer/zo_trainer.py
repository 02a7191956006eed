"""`ZOTrainer`: `transformers.Trainer` that trains with forward passes only."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import Trainer

from zoft.errors import UsageError
from zoft.trainer.mixin import ZOMixin
from zoft.trainer.settings import ZOSettings
from zoft.trainer.zo_config import ZOConfig


class ZOTrainer(ZOMixin, Trainer):
    """A Trainer whose steps are zeroth-order: `ZOTrainer(model, ZOConfig(...), train_dataset=...).train()`.

    All of Trainer's arguments keep their names and meaning. `evaluate`, `compute_metrics`, checkpoints,
    `resume_from_checkpoint`, `load_best_model_at_end`, `report_to` and PEFT models work as they do there.

    Raises:
        UsageError (a ValueError): settings that cannot work together, before anything is loaded or written.
    """

    args: ZOConfig

    def __init__(
        self,
        model: nn.Module | Any = None,
        args: ZOConfig | None = None,
        *,
        objective: Any = None,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            model, args and all keyword arguments of `transformers.Trainer`.
            objective: `zoft.objectives.Objective`, how a batch is scored; None: the loss that the model returns.
        """
        args = ZOConfig() if args is None else args
        if not isinstance(args, ZOConfig):
            raise UsageError(
                f"ZOTrainer takes a ZOConfig, but {type(args).__name__} was given; for a stock Trainer use ZOCallback"
            )
        self.objective = objective
        super().__init__(model, args, **kwargs)
        if objective is not None:
            self.loss_is_scaled_for_ga = False  # an objective returns the mean over its batch
        self.check_zo()

    @property
    def zo_settings(self) -> ZOSettings:  # type: ignore[override]
        """The zeroth-order part of `args`, as it stands now."""
        return self.args.zo_settings()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The objective's loss where there is one, otherwise the model's own."""
        if self.objective is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss = self.objective(model, inputs)
        return (loss, {"loss": loss}) if return_outputs else loss

    def zo_losses(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None
    ) -> torch.Tensor:
        """The objective's losses of the examples [B], unless a subclass computes the loss in its own way."""
        if hasattr(self.objective, "losses") and type(self).compute_loss is ZOTrainer.compute_loss:
            return self.objective.losses(model, inputs)
        return super().zo_losses(model, inputs, num_items_in_batch)

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """With an objective: its loss, its scores [batch, candidates] as predictions, and the gold candidates as labels."""
        if self.objective is None:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            scored = self.objective.evaluate(model, inputs)
        if prediction_loss_only:
            return scored.losses.mean(), None, None
        return scored.losses.mean(), scored.scores, scored.gold
