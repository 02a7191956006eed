"""Weights that a file names otherwise than the model does, loaded by Transformers' own table of names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import Trainer as _Base
else:
    _Base = object

FILE, INDEX = "model.safetensors", "model.safetensors.index.json"


class RenamedWeights(_Base):
    """Put before `Trainer`, which reads a checkpoint's tensors by the names in the file and leaves alone what it does not find.

    `save_pretrained` writes GPT-NeoX's head as `embed_out`, for instance, and in memory it is `lm_head`: Trainer would go on
    with the head that the run began with.
    """

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        load_renamed(self.model if model is None else model, Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self.state.best_model_checkpoint is not None:
            load_renamed(self.model, Path(self.state.best_model_checkpoint))


@torch.no_grad()
def load_renamed(model: Any, checkpoint: Path) -> bool:
    """Load `model` from a checkpoint with `from_pretrained` if its file holds names that the model does not; whether it did."""
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel) or names_in(checkpoint) <= model.state_dict().keys():
        return False
    loaded: Any = type(model).from_pretrained(checkpoint, dtype="auto")
    model.load_state_dict(loaded.state_dict())
    return True


def names_in(checkpoint: Path) -> set[str]:
    """The names of the tensors that a checkpoint's safetensors files hold; none: there are no such files."""
    if (checkpoint / INDEX).is_file():
        return set(json.loads((checkpoint / INDEX).read_bytes())["weight_map"])
    if not (checkpoint / FILE).is_file():
        return set()
    from safetensors import safe_open

    with safe_open(checkpoint / FILE, framework="pt") as file:
        return set(file.keys())
