"""Models by shape, with random weights: what a step costs does not depend on what the weights say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from zoft.errors import UsageError

SCALE = 0.02  # standard deviation of the weights


@dataclass(frozen=True)
class Shape:
    """The sizes of a causal language model."""

    family: str  # opt or llama
    hidden: int
    layers: int
    heads: int
    inner: int  # of the feed-forward block
    vocabulary: int
    kv_heads: int = 0  # llama only
    positions: int = 2048  # opt only: the longest text


SHAPES = {
    "tiny": Shape("opt", 32, 2, 2, 64, 100, positions=64),  # shows that a command runs
    "opt-125m": Shape("opt", 768, 12, 12, 3072, 50272),
    "opt-1.3b": Shape("opt", 2048, 24, 32, 8192, 50272),
    "opt-13b": Shape("opt", 5120, 40, 40, 20480, 50272),
    "llama-3-8b": Shape("llama", 4096, 32, 32, 14336, 128256, kv_heads=8),
}


def random_model(name: str, dtype: torch.dtype, device: torch.device | str = "cpu") -> Any:
    """The model of shape `name` in evaluation mode, made on `device` in `dtype`.

    Raises:
        UsageError: no such shape.
    """
    if name not in SHAPES:
        raise UsageError(f"shape {name!r} does not exist; there are: {', '.join(SHAPES)}")
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    config = _config(SHAPES[name])
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with no_init_weights(), torch.device(device):
            model: Any = AutoModelForCausalLM.from_config(config)
    finally:
        torch.set_default_dtype(default)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=SCALE, generator=generator)
            weight.add_(1.0 if weight.ndim == 1 else 0.0)
    model.tie_weights()
    return model.eval()


def stored_bytes(name: str, dtype: torch.dtype) -> int:
    """Of the weights of shape `name`; nothing is allocated."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(_config(SHAPES[name]))
    return sum(weight.numel() for weight in model.parameters()) * dtype.itemsize


def _config(shape: Shape) -> Any:
    if shape.family == "opt":
        from transformers import OPTConfig

        return OPTConfig(
            vocab_size=shape.vocabulary, hidden_size=shape.hidden, word_embed_proj_dim=shape.hidden, ffn_dim=shape.inner,
            num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
            max_position_embeddings=shape.positions,
        )  # fmt: skip
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.inner,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        tie_word_embeddings=False,
    )  # fmt: skip
