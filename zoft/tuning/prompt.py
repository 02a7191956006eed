"""Prompt tuning (Lester et al. 2021): trained embeddings before the text, through PEFT."""

from __future__ import annotations

from typing import Any

import torch

from zoft.errors import UsageError
from zoft.tuning.base import Scheme, first_line, peft_task, real_tokens
from zoft.tuning.settings import TuningSettings

TOKENS = 10  # ZO-Bench


class Prompt(Scheme):
    """`virtual_tokens` rows before the embedded text, which start as the embeddings of tokens from the vocabulary."""

    name = "prompt"
    peft_type = "PROMPT_TUNING"

    def apply(self, model: Any, settings: TuningSettings, tokenizer: Any = None) -> Any:
        from peft import PromptTuningConfig, get_peft_model

        count = settings.virtual_tokens or TOKENS
        tokens = real_tokens(model, count, tokenizer) if settings.virtual_init == "tokens" else None
        try:
            peft = get_peft_model(model, PromptTuningConfig(task_type=peft_task(model), num_virtual_tokens=count))
        except ValueError as error:
            raise UsageError(f"tuning=prompt: {first_line(error)}; use tuning=lora") from error
        if tokens is not None:
            table: Any = model.get_input_embeddings()
            encoder: Any = peft.prompt_encoder["default"]
            with torch.no_grad():
                encoder.embedding.weight.copy_(table(tokens.to(table.weight.device)))
        return peft
