"""`ZOTrainer`: `transformers.Trainer` that trains with forward passes only."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from zoft.errors import UsageError
from zoft.shards import is_sharded
from zoft.trainer.mixin import ZOMixin
from zoft.trainer.objective_trainer import ObjectiveTrainer
from zoft.trainer.placement import check_sharded
from zoft.trainer.settings import ZOSettings
from zoft.trainer.zo_config import ZOConfig


class ZOTrainer(ZOMixin, ObjectiveTrainer):
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
            objective: `zoft.objectives.Objective`, how a batch is scored; None: the loss that the model returns. Then columns
                that the model does not take are left out, as Trainer does; for a collator that needs them set
                remove_unused_columns=False. A `compute_loss` of your own gets all.
        """
        args = ZOConfig() if args is None else args
        if not isinstance(args, ZOConfig):
            raise UsageError(
                f"ZOTrainer takes a ZOConfig, but {type(args).__name__} was given; for a stock Trainer use ZOCallback"
            )
        if args.remove_unused_columns is None:
            args = copy.copy(args)  # which may serve another trainer
            args.remove_unused_columns = objective is None and type(self).compute_loss is ObjectiveTrainer.compute_loss
        whole = args.save_only_model
        if isinstance(model, nn.Module) and any(map(is_sharded, model.parameters())):
            check_sharded(model, args, args.zo_settings())
            args.save_only_model = True  # Transformers refuses to save optimizer states of its shards: here are scalars
        try:
            super().__init__(model, args, objective=objective, **kwargs)
        finally:
            args.save_only_model = whole
        self.check_zo()

    @property
    def zo_settings(self) -> ZOSettings:  # type: ignore[override]
        """The zeroth-order part of `args`, as it stands now."""
        return self.args.zo_settings()

    def zo_losses(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None
    ) -> torch.Tensor:
        """The objective's losses of the examples [B], unless a subclass computes the loss in its own way."""
        if hasattr(self.objective, "losses") and type(self).compute_loss is ObjectiveTrainer.compute_loss:
            self.forwards += 1
            return self.objective.losses(model, inputs)
        return super().zo_losses(model, inputs, num_items_in_batch)
