"""Prefix tuning (Li & Liang 2021): trained keys and values before the text in every layer, through PEFT."""

from __future__ import annotations

from typing import Any

import torch

from zoft.errors import UsageError
from zoft.tuning.base import Scheme, first_line, peft_task, real_tokens
from zoft.tuning.settings import TuningSettings

TOKENS = 5  # MeZO, Table 16


class Prefix(Scheme):
    """`virtual_tokens` keys and values a layer, seen by every token of the text.

    They start as what the model itself computes for tokens drawn from its vocabulary, as MeZO's do: random numbers
    would be far from anything that attention has met.
    """

    name = "prefix"
    peft_type = "PREFIX_TUNING"

    def apply(self, model: Any, settings: TuningSettings, tokenizer: Any = None) -> Any:
        from peft import PrefixTuningConfig, get_peft_model

        count = settings.virtual_tokens or TOKENS
        flat = activations(model, real_tokens(model, count, tokenizer)) if settings.virtual_init == "tokens" else None
        try:
            peft = get_peft_model(model, PrefixTuningConfig(task_type=peft_task(model), num_virtual_tokens=count))
        except ValueError as error:
            raise UsageError(f"tuning=prefix: {first_line(error)}; use tuning=lora or tuning=prompt") from error
        if flat is not None:
            encoder: Any = peft.prompt_encoder["default"]
            encoder.load_prompt_embeddings(flat)
        return peft


@torch.no_grad()
def activations(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Keys and values of every layer for a text of `tokens` [n], as PEFT stores them: [n, layers * 2 * heads * width].

    Layer l's keys stand before its values, and both before layer l + 1's.

    Raises:
        UsageError: the model keeps no keys and values of this shape.
    """
    from transformers import DynamicCache

    device = model.get_input_embeddings().weight.device
    trained = [m for m in model.modules() if m.training and not type(m).__module__.startswith("bitsandbytes")]
    for (
        module
    ) in trained:  # dropout is off; bitsandbytes' layers repack their weights when they first run outside training
        module.training = False
    try:
        cache: Any = DynamicCache()
        model(input_ids=tokens.to(device).unsqueeze(0), past_key_values=cache, use_cache=True)
        layers = [(layer.keys, layer.values) for layer in cache.layers]  # [1, heads, n, width] each
        parts = [part[0].transpose(0, 1).flatten(1) for layer in layers for part in layer]
    except (AttributeError, TypeError, IndexError) as error:
        raise UsageError(
            f"tuning=prefix: {type(model).__name__} gives no keys and values to start from ({first_line(error)}); use "
            "virtual_init=random, tuning=prompt or tuning=lora"
        ) from error
    finally:
        for module in trained:
            module.training = True
    if len(parts) != 2 * model.config.get_text_config().num_hidden_layers:
        raise UsageError(
            f"tuning=prefix: {type(model).__name__} keeps keys and values in {len(parts) // 2} of its layers only; use "
            "tuning=prompt or tuning=lora"
        )
    return torch.cat(parts, dim=1).float()
