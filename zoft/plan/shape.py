"""How large the model of a run is: from the recipe book's table, or counted on a model without weights."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import nn

from zoft.config import RunConfig
from zoft.config.book.models import MODELS
from zoft.costs.sizes import BYTES, Sizes
from zoft.errors import UsageError
from zoft.tuning.last_k import blocks


def sizes_of(config: RunConfig) -> tuple[Sizes, str]:
    """The sizes of the run's model, and the dtype that its weights would have.

    Raises:
        UsageError: there is no configuration to read: not a folder, not in the book, and not on the Hub from here.
    """
    name = str(config.run.model)
    book = next((model for model in MODELS.values() if model.hub == name), None)
    if book is not None:
        return book.sizes, config.run.dtype if config.run.dtype in BYTES else "bfloat16"
    model = _without_weights(name)
    stored = str(model.config.dtype or "float32").removeprefix("torch.")
    return counted(model), config.run.dtype if config.run.dtype in BYTES else stored


def counted(model: Any) -> Sizes:
    """The sizes of a model of Transformers; its weights are not looked at.

    Raises:
        UsageError: it has no stack of blocks.
    """
    config = model.config.get_text_config()
    path, layers = blocks(model)
    stack = model.get_submodule(path)
    matrices = [weight.numel() for weight in stack.parameters() if weight.ndim >= 2]
    hidden, heads = config.hidden_size, config.num_attention_heads
    width = getattr(config, "head_dim", None) or hidden // heads
    table, output = model.get_input_embeddings(), model.get_output_embeddings()
    return Sizes(
        parameters=sum(weight.numel() for weight in model.parameters()),
        matrices=sum(matrices),
        largest=max(matrices),
        hidden=hidden,
        inner=max(
            (layer.out_features for layer in stack.modules() if isinstance(layer, nn.Linear)), default=4 * hidden
        ),
        layers=layers,
        vocabulary=table.num_embeddings,
        attention=heads * width,
        keys=(getattr(config, "num_key_value_heads", None) or heads) * width,
        gated=any("gate_proj" in name or "gate_up" in name for name, _ in stack.named_modules()),
        tensors=len(list(stack.parameters())) // layers,
        tied=output is None or output.weight is table.weight,
    )


def _without_weights(name: str) -> Any:
    import transformers

    from zoft.finetune.materials import WORLDS
    from zoft.models import architecture_of

    if name in WORLDS:
        return _of_world(name)
    kind: Any = {
        "causal": transformers.AutoModelForCausalLM,
        "masked": transformers.AutoModelForMaskedLM,
        "classifier": transformers.AutoModelForSequenceClassification,
    }[architecture_of(name)]
    config = transformers.AutoConfig.from_pretrained(name)
    if getattr(config, "quantization_config", None) is not None:
        raise UsageError(
            f"model {name} is quantised already; plan with the model that it was made from, and quantization=nf4, fp4 or int8"
        )
    with torch.device("meta"):
        return kind.from_config(config)


def _of_world(name: str) -> Any:
    """The model of an offline world, with the sizes that it is built with."""
    from zoft.finetune.materials import WORLDS
    from zoft.quickstart.pretrain import Pretraining, make_tokenizer, new_model

    world = import_module(f"{WORLDS[name]}.world")
    with torch.device("meta"):
        return new_model(Pretraining(), make_tokenizer(world.vocabulary()))
