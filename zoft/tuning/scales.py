"""The scales of a quantised base (QZO, Shang et al. 2025): the weights themselves, block by block."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from torch import nn

from zoft.errors import UsageError
from zoft.tuning.base import Scheme, classifier_head
from zoft.tuning.settings import TuningSettings


class Scales(Scheme):
    """W = codes * scales in every linear layer that bitsandbytes quantised; the scales are trained, the codes stay.

    Shang et al. 2025 ("Fine-tuning Quantized Neural Networks with Zeroth-order Optimization") perturb the scales by
    eps z and move them along z. A scale is the largest magnitude of its block, so eps is by how much that weight moves.
    A scale may pass through zero, where its block's weights change sign; the authors hold it above 1e-7 instead.
    """

    name = "scales"

    def apply(self, model: Any, settings: TuningSettings, tokenizer: Any = None) -> Any:
        if not _convert(model):
            raise UsageError(
                f"tuning=scales trains the scales of a base that bitsandbytes quantised, and {type(model).__name__} holds no "
                "such layer; add quantization=nf4 (or fp4, int8), or use another tuning"
            )
        heads = classifier_head(model)
        for name, weight in model.named_parameters():
            scale = name.rsplit(".", 1)[-1] == "scales"
            weight.requires_grad_(scale or (weight.is_floating_point() and name.split(".")[0] in heads))
        model.is_quantized = False  # to Transformers this means: nothing of it can be trained
        return model


def _convert(model: nn.Module) -> int:
    """Replace the quantised layers of `model`; how many there were."""
    if find_spec("bitsandbytes") is None:
        return 0
    from zoft.tuning.scaled_linear import scaled

    count = 0
    for path, layer in list(model.named_modules()):
        new = scaled(layer)
        if new is not None:
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, new.train(layer.training))
            count += 1
    return count
