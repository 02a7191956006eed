"""The output head alone."""

from __future__ import annotations

from typing import Any

from torch import nn

from zoft.errors import UsageError
from zoft.tuning.base import Scheme, head_names, train_only
from zoft.tuning.full import refuse_integer_weights
from zoft.tuning.settings import TuningSettings


class Head(Scheme):
    """What the model holds beside its base model is trained.

    A head that shares its matrix with the input embeddings gets a copy of its own first (`tie_word_embeddings` turns
    false in the saved configuration), or the input would move with it: one vocabulary matrix of memory more.
    """

    name = "head"

    def apply(self, model: Any, settings: TuningSettings, tokenizer: Any = None) -> Any:
        refuse_integer_weights(model, self.name)
        heads = head_names(model)
        if not heads:
            raise UsageError(
                f"tuning=head: {type(model).__name__} holds nothing beside its base model; use tuning=last_k or tuning=lora"
            )
        unused = _untie(model)
        train_only(model, lambda name: name.split(".")[0] in heads)
        if unused is not None:
            unused.requires_grad_(False)
        return model


def _untie(model: Any) -> nn.Parameter | None:
    """Give the output matrix, and the bias that is tied by the same setting, memory of their own.

    Returns:
        The bias that nothing reads any more: RoBERTa's head holds it beside the one of its last layer.
    """
    output, table = model.get_output_embeddings(), model.get_input_embeddings()
    if output is None or output.weight is not table.weight:
        return None
    before = getattr(output, "bias", None)
    output.weight = nn.Parameter(output.weight.detach().clone())
    model.config.tie_word_embeddings = False
    model.all_tied_weights_keys = {}
    if before is None or sum(before is weight for _, weight in model.named_parameters(remove_duplicate=False)) < 2:
        return None
    output.bias = nn.Parameter(before.detach().clone())
    return before
