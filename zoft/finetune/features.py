"""A frozen encoder under a classification head runs once for each training example; the steps then run the head alone.

While the head alone is trained, what it reads of an example never changes::

    logits(w + eps z; x) = head(w + eps z; f(x))        f: all that lies before the head, dropout off

so f(x) is kept, float by float as it was computed: n D numbers for n examples. Evaluation runs the model whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from zoft.errors import UsageError
from zoft.evaluate import in_batches
from zoft.objectives import Batch, CandidateLikelihood
from zoft.objectives.likelihood import of_choices, scored
from zoft.tasks.collate import Collator
from zoft.tasks.encoded import Encoded
from zoft.tuning.base import head_names


class StoredFeatures(CandidateLikelihood):
    """`CandidateLikelihood` whose `losses` are those of the examples of one dataset, found by their `index`."""

    def __init__(self, model: Any, dataset: Sequence[Encoded], collator: Collator, batch_size: int = 32) -> None:
        """Runs the whole model once over `dataset`, in batches that do not depend on the order of training.

        Raises:
            UsageError: more than the head is trained, or the head reads more than one vector of an example.
        """
        self._head = head_of(model)
        self.features = _head_inputs(model, model.get_submodule(self._head), dataset, collator, batch_size)  # [n, D]

    def losses(self, model: Any, batch: Batch) -> torch.Tensor:
        """[B] float32, of examples of the dataset that was stored."""
        logits = model.get_submodule(self._head)(self.features[batch["index"]])  # [B, L]
        return scored(of_choices(logits, batch["classes"]), batch["gold"]).losses


def head_of(model: Any) -> str:
    """The name of the one module that holds all trained weights; UsageError when there is none."""
    heads = head_names(model)
    trained = {name.split(".")[0] for name, weight in model.named_parameters() if weight.requires_grad}
    if len(heads) != 1 or trained != set(heads) or "SequenceClassification" not in type(model).__name__:
        raise UsageError(
            f"store_features=true is for a classification head that is trained alone, but of {type(model).__name__} "
            f"{', '.join(sorted(trained)) or 'nothing'} is trained; use tuning=head, or store_features=false"
        )
    return heads[0]


def _head_inputs(
    model: nn.Module, head: nn.Module, dataset: Sequence[Encoded], collator: Collator, batch_size: int
) -> torch.Tensor:
    """[n, D] in the model's type: what the head is given for each example."""
    seen: list[torch.Tensor] = []
    found: dict[int, torch.Tensor] = {}

    def read(numbers: Sequence[int], items: Sequence[Encoded], batch: Batch) -> None:
        seen.clear()
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        if len(seen) != 1 or seen[0].dim() != 2:
            raise UsageError(
                f"store_features=true: the head of {type(model).__name__} reads more than one vector of an example; "
                "use store_features=false"
            )
        found.update(zip(numbers, seen[0], strict=True))

    handle = head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        in_batches(model, dataset, collator, batch_size, read)
    finally:
        handle.remove()
    return torch.stack([found[number] for number in range(len(dataset))])
