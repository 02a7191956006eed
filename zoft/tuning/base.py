"""The contract of a tuning scheme, and what several of them need."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from zoft.errors import UsageError
from zoft.tuning.settings import TuningSettings


class Scheme(ABC):
    """Says which weights are trained. Afterwards exactly those of the model have `requires_grad`."""

    name: str
    peft_type: str | None = None  # of the adapter that it adds; None: it adds none

    @abstractmethod
    def apply(self, model: Any, settings: TuningSettings, tokenizer: Any = None) -> Any:
        """The model, or the PEFT model around it.

        Raises:
            UsageError: it cannot be had on this model; the message says what can.
        """


def train_only(model: nn.Module, chosen: Callable[[str], bool]) -> int:
    """Freeze all but the parameters whose name is `chosen`, and a classifier's head; how many tensors are trained."""
    heads = classifier_head(model)
    count = 0
    for name, weight in model.named_parameters():
        trained = chosen(name) or name.split(".")[0] in heads
        weight.requires_grad_(trained)
        count += trained and name.split(".")[0] not in heads
    return count


def head_names(model: Any) -> list[str]:
    """Names of the modules that a model of Transformers holds beside its base model: `lm_head`, `classifier`, …"""
    base = getattr(model, getattr(model, "base_model_prefix", "") or "-", None)
    if not isinstance(base, nn.Module):
        return []
    return [
        name for name, child in model.named_children() if child is not base and any(True for _ in child.parameters())
    ]


def classifier_head(model: Any) -> list[str]:
    """The same for a classifier, whose head is new and so is trained by every scheme; [] for language models."""
    return head_names(model) if "SequenceClassification" in type(model).__name__ else []


def peft_task(model: Any) -> Any:
    """PEFT's task type: it decides which class `PeftModel.from_pretrained` wraps around the model.

    PEFT has none for masked language models. `FEATURE_EXTRACTION` hands their outputs on as they are.
    """
    from peft import TaskType

    kind = type(model).__name__
    if "SequenceClassification" in kind:
        return TaskType.SEQ_CLS
    return TaskType.CAUSAL_LM if kind.endswith(("CausalLM", "LMHeadModel")) else TaskType.FEATURE_EXTRACTION


def real_tokens(model: Any, count: int, tokenizer: Any = None) -> torch.Tensor:
    """`count` tokens [count] int64 drawn from the vocabulary with torch's generator, none of them a special one."""
    config = model.config.get_text_config()
    special = {getattr(config, f"{name}_token_id", None) for name in ("pad", "bos", "eos", "unk", "mask")}
    special |= set(getattr(tokenizer, "all_special_ids", ()))
    size = min(config.vocab_size, len(tokenizer) if tokenizer is not None else config.vocab_size)
    ordinary = [token for token in range(size) if token not in special]
    if not ordinary:
        raise UsageError(f"the vocabulary of {size} tokens holds special ones only; use virtual_init=random")
    return torch.tensor(ordinary)[torch.randint(len(ordinary), (count,))]


def first_line(error: Exception) -> str:
    """Of a library's message."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def some_of(names: Iterable[str], most: int = 12) -> str:
    """A list for an error: the first few, without repetition."""
    unique = list(dict.fromkeys(names))
    return ", ".join(unique[:most]) + (" …" if len(unique) > most else "")
