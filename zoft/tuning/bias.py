"""The biases alone (BitFit, Ben Zaken et al. 2022)."""

from __future__ import annotations

from typing import Any

from zoft.errors import UsageError
from zoft.tuning.base import Scheme, train_only
from zoft.tuning.full import refuse_integer_weights
from zoft.tuning.settings import TuningSettings


class Bias(Scheme):
    """Every bias is trained, those of norms included."""

    name = "bias"

    def apply(self, model: Any, settings: TuningSettings, tokenizer: Any = None) -> Any:
        refuse_integer_weights(model, self.name)
        if not train_only(model, lambda name: name.split(".")[-1] == "bias"):
            raise UsageError(
                f"tuning=bias: {type(model).__name__} has no biases, so nothing would be trained; use tuning=lora, "
                "tuning=head or tuning=last_k"
            )
        return model
