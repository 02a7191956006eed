"""MeZO in the same trainer, for comparison: `method=mezo`."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from torch import nn

from zoft.errors import UsageError
from zoft.mezo import MeZO
from zoft.trainer.mezo_settings import check_mezo_settings
from zoft.trainer.replicas import require_same_start
from zoft.trainer.settings import ZOSettings
from zoft.trainer.stateless import go_on
from zoft.trainer.zo_trainer import ZOTrainer


class MeZOTrainer(ZOTrainer):
    """`ZOTrainer` with `zoft.mezo.MeZO` as its optimizer: batches, schedule, objective and evaluation are the same.

    There is no stability monitor, no guard, no residual storage and no trajectory log: MeZO has none. Checkpoints and
    `resume_from_checkpoint` work.

    Raises:
        UsageError: a setting that MeZO's procedure cannot honour.
    """

    zo: MeZO | None  # type: ignore[assignment]

    def check_zo(self) -> None:
        """As `ZOTrainer`; every zeroth-order setting that differs from its default must be one that MeZO has."""
        settings = self.zo_settings
        changed = {f.name: getattr(settings, f.name) for f in fields(ZOSettings)}
        check_mezo_settings({name: v for name, v in changed.items() if v != getattr(ZOSettings, name)})
        super().check_zo()

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """MeZO over whatever is trainable now; from here to the end of `train` all is frozen."""
        if self.optimizer is None:
            settings = self.zo_settings
            trained: Any = self.model if model is None else model
            seed = self.args.seed if settings.zo_seed is None else settings.zo_seed
            lr, decay = self.args.learning_rate, self.args.weight_decay
            self.zo = MeZO(trained, lr=float(lr), eps=settings.zo_eps, weight_decay=decay, seed=seed)
            self.optimizer = self.zo
        if self.zo is None:
            raise UsageError("zoft makes its own optimizer; pass no `optimizers` to a zeroth-order trainer")
        go_on(self.zo, self._resumed)
        for weight in self.zo.param_groups[0]["params"]:
            weight.requires_grad_(False)
        if self.args.world_size > 1:
            require_same_start(self.zo.model)
        return self.optimizer

    def zo_losses(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None
    ) -> torch.Tensor:
        """The micro-batch's loss as one number, as MeZO takes it."""
        return self.compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)  # type: ignore[return-value]

    def zo_metrics(self) -> dict[str, float]:
        """What the last step adds to the log."""
        assert self.zo is not None and self.zo.last is not None
        return {"zo/projected_grad": abs(self.zo.last), "zo/skipped_steps": 0.0}
