"""Tuning schemes by name."""

from __future__ import annotations

from typing import Any

from zoft.errors import UsageError
from zoft.tuning.base import Scheme
from zoft.tuning.bias import Bias
from zoft.tuning.full import Full
from zoft.tuning.head import Head
from zoft.tuning.last_k import LastK
from zoft.tuning.lora import Lora
from zoft.tuning.prefix import Prefix
from zoft.tuning.prompt import Prompt
from zoft.tuning.scales import Scales
from zoft.tuning.settings import TuningSettings

SCHEMES: dict[str, Scheme] = {
    s.name: s for s in (Full(), Lora(), Prefix(), Prompt(), Head(), LastK(), Bias(), Scales())
}


def apply_tuning(model: Any, settings: TuningSettings | None = None, tokenizer: Any = None, **changes: Any) -> Any:
    """The model with exactly those weights set to be trained that `tuning` trains; adapters are added through PEFT.

    A model that came with an adapter goes on training that one.

    Args:
        tokenizer: its special tokens are not drawn as a start for virtual ones.
        changes: settings by name, instead of `settings`.

    Raises:
        UsageError: the scheme cannot be had on this model, or would train nothing; the message says what can.
    """
    settings = settings or TuningSettings(**changes)
    scheme = SCHEMES[settings.tuning]
    if not hasattr(model, "peft_config"):
        return scheme.apply(model, settings, tokenizer)
    kind = str(getattr(next(iter(model.peft_config.values())).peft_type, "value", ""))
    if kind != scheme.peft_type:
        name = next((s.name for s in SCHEMES.values() if s.peft_type == kind), None)
        use = f"use tuning={name}" if name else "use a trainer of your own"
        raise UsageError(
            f"tuning={settings.tuning}: the model folder holds an adapter of PEFT's type {kind}; {use}, or merge it into "
            "its base first"
        )
    return model
