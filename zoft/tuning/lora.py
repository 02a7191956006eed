"""Low-rank adapters (Hu et al. 2021) beside chosen linear layers, through PEFT."""

from __future__ import annotations

from typing import Any

from torch import nn

from zoft.errors import UsageError
from zoft.tuning.base import Scheme, classifier_head, first_line, peft_task, some_of
from zoft.tuning.settings import TuningSettings


class Lora(Scheme):
    """W x + alpha / r B A x with A, B of rank r; PEFT starts with B = 0, so training starts at the base model."""

    name = "lora"
    peft_type = "LORA"

    def apply(self, model: Any, settings: TuningSettings, tokenizer: Any = None) -> Any:
        from peft import LoraConfig, get_peft_model

        targets = settings.lora_target_modules
        if isinstance(targets, list):
            check_targets(model, targets)
        config = LoraConfig(
            r=settings.lora_r,
            lora_alpha=settings.lora_alpha,
            lora_dropout=0.0,
            target_modules=targets,
            task_type=peft_task(model),
            modules_to_save=classifier_head(model) or None,
        )
        try:
            return get_peft_model(model, config)
        except ValueError as error:
            raise UsageError(
                f"tuning=lora: {first_line(error)}; set lora_target_modules (all-linear fits any model)"
            ) from error


def check_targets(model: nn.Module, targets: list[str]) -> None:
    """UsageError for the first target that no module of the model bears; PEFT finds only that none of them does."""
    names = [name for name, _ in model.named_modules()]
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            kinds = (n.rsplit(".", 1)[-1] for n, m in model.named_modules() if type(m).__name__ in ("Linear", "Conv1D"))
            raise UsageError(
                f"tuning=lora: lora_target_modules names {target!r}, which {type(model).__name__} does not have; its linear "
                f"layers are: {some_of(kinds)}"
            )
