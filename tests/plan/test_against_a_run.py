"""The plan's arithmetic beside real steps on this CPU: memory counted, time taken."""

import statistics
import time
from typing import Any

import pytest
import torch
import transformers as hf

from zoft.bench.contestants import Batch
from zoft.costs.memory import Setup, step_memory
from zoft.costs.seconds import step_seconds
from zoft.optimizer import ZOOptimizer
from zoft.plan.here import device_of
from zoft.plan.shape import counted
from zoft.report.memory import weight_bytes, zo_step_bytes

ROWS, TOKENS = 16, 64
WITHIN = 2.5  # a machine that is shared times the ceilings in one second and the step in another


def model_of(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "opt":
        return hf.OPTForCausalLM(
            hf.OPTConfig(
                vocab_size=4000, hidden_size=256, word_embed_proj_dim=256, ffn_dim=1024, num_hidden_layers=4,
                num_attention_heads=8, max_position_embeddings=128,
            )
        ).eval()  # fmt: skip
    return hf.LlamaForCausalLM(
        hf.LlamaConfig(
            vocab_size=4000, hidden_size=256, intermediate_size=768, num_hidden_layers=4, num_attention_heads=8,
            num_key_value_heads=2,
        )
    ).eval()  # fmt: skip


@pytest.mark.parametrize("kind", ["opt", "llama"])
@pytest.mark.parametrize(
    ("dtype", "perturbation"), [("float32", "read_only"), ("float32", "in_place"), ("bfloat16", "read_only")]
)
def test_memory_is_what_is_counted(kind, dtype, perturbation, monkeypatch) -> None:
    """In all within 15 %; of what lives beside the weights, at least half and at most twice what is counted.

    Without the buffers of 16-bit products taken in float32, which are not counted: as large as these small models.
    """
    monkeypatch.setattr("zoft.products.slow_dtypes", frozenset)
    model = model_of(kind).to(getattr(torch, dtype))
    batch = Batch.random(model, ROWS, TOKENS)
    setup = Setup(dtype=dtype, rows=ROWS, tokens=TOKENS, in_place=perturbation == "in_place")
    settings = {"perturbation": perturbation, "weight_rounding": "nearest"}
    taken = zo_step_bytes(model, lambda copied: batch.label(copied).mean(), **settings)
    planned = step_memory(counted(model), setup)
    assert planned.weights == weight_bytes(model)
    assert planned.total == pytest.approx(taken, rel=0.15)
    beside = taken - planned.weights
    assert beside / 2 < planned.total - planned.weights < 2 * beside


def test_time_is_what_is_measured() -> None:
    model = model_of("opt")
    batch = Batch.random(model, ROWS, TOKENS)
    optimizer = ZOOptimizer(model, 1e-7)
    step = lambda: optimizer.step(lambda: batch.label(model))  # noqa: E731
    for _ in range(3):
        step()
    ratios = []
    for _ in range(3):  # the ceilings and the step in turns
        planned = step_seconds(
            counted(model), Setup(rows=ROWS, tokens=TOKENS), device_of("here", "float32"), forwards=2
        ).total
        taken = []
        for _ in range(5):
            began = time.perf_counter()
            step()
            taken.append(time.perf_counter() - began)
        ratios.append(statistics.median(taken) / planned)
    assert 1 / WITHIN < statistics.median(ratios) < WITHIN, ratios
