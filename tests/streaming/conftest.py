"""Tiny decoders of several families, and steps on them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from zoft.optimizer import ZOOptimizer
from zoft.streaming.copied import Copied
from zoft.streaming.plan import _plans
from zoft.streaming.store import Store
from zoft.streaming.stream import Streamed, _beside, stream

SMALL = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 5,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
}
FAMILIES = {
    "OPT": {"ffn_dim": 32, "word_embed_proj_dim": 16},
    "Llama": {"intermediate_size": 32, "num_key_value_heads": 1},
    "GPTNeoX": {"intermediate_size": 32},
    "GPT2": {"n_embd": 16, "n_layer": 5, "n_head": 2, "n_positions": 32},
    "Qwen3Moe": {
        "intermediate_size": 32, "num_key_value_heads": 1, "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2,
        "moe_intermediate_size": 8,
    },
    "Gemma2": {"intermediate_size": 32, "num_key_value_heads": 1, "head_dim": 8, "sliding_window": 8},
}  # fmt: skip


def decoder(family: str = "Llama", dtype: torch.dtype = torch.float32) -> Any:
    """A random model of five blocks, the same each time."""
    import transformers

    torch.manual_seed(0)
    own = {"vocab_size": 50} if family == "GPT2" else SMALL
    config = getattr(transformers, f"{family}Config")(**own, **FAMILIES[family])
    name = f"{family}{'LMHeadModel' if family == 'GPT2' else 'ForCausalLM'}"
    return getattr(transformers, name)(config).to(dtype).eval()


def least(model: nn.Module, weight_rounding: str = "nearest", buffers: int = 0) -> str:
    """The budget under which all blocks stream, in words."""
    *_, smallest = _plans(model, _beside(weight_rounding, buffers))
    return f"{-(-smallest.resident // 1000) / 1000:.3f}MB"


def copied(model: nn.Module, **settings: Any) -> Streamed:
    """Streamed as on a GPU, by copies into two buffers, but on the CPU."""
    *_, smallest = _plans(model, _beside(settings.get("weight_rounding", "nearest"), settings.get("buffers", 0)))
    return Streamed(model, smallest, Store(None), Copied(torch.device("cpu"), pinned=True))


WAYS = {
    "disk": lambda model, folder, **kw: stream(model, least(model, **kw), "disk", folder=folder, **kw),
    "memory": lambda model, folder, **kw: stream(model, least(model, **kw), "memory", **kw),
    "copied": lambda model, folder, **kw: copied(model, **kw),
}


@pytest.fixture(params=list(WAYS))
def way(request, tmp_path):
    """Streams a model in one of three ways."""
    return lambda model, weight_rounding="nearest", buffers=0: WAYS[request.param](
        model, tmp_path, weight_rounding=weight_rounding, buffers=buffers
    )


def losses(model: nn.Module, steps: int = 3, **settings: Any) -> tuple[ZOOptimizer, list[float | None]]:
    """The losses of some steps, each on its own batch."""
    optimizer = ZOOptimizer(model, **{"lr": 1e-3, "seed": 3, **settings})
    found = []
    for step in range(optimizer.steps, steps):
        ids = torch.randint(4, 50, (3, 9), generator=torch.Generator().manual_seed(step))
        found.append(optimizer.step(lambda ids=ids: model(input_ids=ids, labels=ids).loss))
    return optimizer, found


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
