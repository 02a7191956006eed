"""MeZO in the same trainer, for comparison: `method=mezo`."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from torch import nn

from zoft.mezo import MeZO
from zoft.trainer.mezo_settings import check_mezo_settings
from zoft.trainer.replicas import require_same_start
from zoft.trainer.settings import ZOSettings
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

    def _new_optimizer(self, model: nn.Module) -> None:
        self.zo = MeZO(
            model,
            lr=float(self.args.learning_rate),
            eps=self.zo_settings.zo_eps,
            weight_decay=self.args.weight_decay,
            seed=self._zo_seed,
        )

    def _compare_ranks(self) -> None:
        assert self.zo is not None
        require_same_start(self.zo.model)

    def zo_losses(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None
    ) -> torch.Tensor:
        """The micro-batch's loss as one number, as MeZO takes it."""
        return self.compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)  # type: ignore[return-value]

    def zo_metrics(self) -> dict[str, float]:
        """What the last step adds to the log."""
        assert self.zo is not None and self.zo.last is not None
        return {"zo/projected_grad": abs(self.zo.last), "zo/skipped_steps": 0.0}
