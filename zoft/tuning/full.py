"""Every weight."""

from __future__ import annotations

from typing import Any

from torch import nn

from zoft.errors import UsageError
from zoft.tuning.base import Scheme
from zoft.tuning.settings import TuningSettings


class Full(Scheme):
    """All weights are trained; the model is what it was."""

    name = "full"

    def apply(self, model: Any, settings: TuningSettings, tokenizer: Any = None) -> Any:
        refuse_integer_weights(model, self.name)
        return model


def refuse_integer_weights(model: nn.Module, tuning: str = "full") -> None:
    """UsageError when some weights are stored as integers, as in an int8 or 4-bit base."""
    whole = next((name for name, weight in model.named_parameters() if not weight.is_floating_point()), None)
    if whole is None and not getattr(model, "is_quantized", False):
        return
    where = f"{whole!r} holds integers" if whole else "the model says that it is quantised"
    raise UsageError(
        f"tuning={tuning}: {where}, and integers cannot take a small step; load the model in bfloat16 or "
        "float32, or use tuning=lora"
    )
