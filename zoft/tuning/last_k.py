"""The last blocks of the stack."""

from __future__ import annotations

from typing import Any

from torch import nn

from zoft.errors import UsageError
from zoft.tuning.base import Scheme, train_only
from zoft.tuning.full import refuse_integer_weights
from zoft.tuning.settings import TuningSettings


class LastK(Scheme):
    """The `last_k` blocks nearest the output are trained, without the norm and the head behind them."""

    name = "last_k"

    def apply(self, model: Any, settings: TuningSettings, tokenizer: Any = None) -> Any:
        refuse_integer_weights(model, self.name)
        path, count = blocks(model)
        if settings.last_k > count:
            raise UsageError(f"tuning=last_k: last_k={settings.last_k}, but {type(model).__name__} has {count} blocks")
        chosen = tuple(f"{path}.{index}." for index in range(count - settings.last_k, count))
        train_only(model, lambda name: name.startswith(chosen))
        return model


def blocks(model: nn.Module) -> tuple[str, int]:
    """Name and length of the model's stack: the list of modules of one kind that holds the most weights.

    Raises:
        UsageError: there is none.
    """
    stacks = {
        name: sum(weight.numel() for weight in module.parameters())
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len({type(block) for block in module}) == 1
    }
    if not stacks:
        raise UsageError(f"tuning=last_k: {type(model).__name__} has no list of blocks; use tuning=lora or tuning=head")
    path = max(stacks, key=lambda name: stacks[name])
    module: Any = model.get_submodule(path)
    return path, len(module)
