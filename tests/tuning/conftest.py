"""Tiny random models of four families, with a tokenizer and a data file."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.finetune.conftest import save_tokenizer

SIZE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64}
FAMILIES = ("opt", "llama", "gpt2", "roberta")


def model_of(kind: str, vocabulary: int, width: int = 16) -> Any:
    import transformers as hf

    size: Any = {**SIZE, "hidden_size": width, "vocab_size": vocabulary}
    torch.manual_seed(0)
    if kind == "opt":
        return hf.OPTForCausalLM(hf.OPTConfig(ffn_dim=32, word_embed_proj_dim=width, pad_token_id=1, **size))
    if kind == "llama":
        config = hf.LlamaConfig(intermediate_size=32, num_key_value_heads=1, pad_token_id=1, **size)
        return hf.LlamaForCausalLM(config)
    if kind == "gpt2":
        config = hf.GPT2Config(vocab_size=vocabulary, n_embd=width, n_layer=2, n_head=2, n_positions=64, bos_token_id=0)
        config.eos_token_id, config.pad_token_id = 2, 1
        return hf.GPT2LMHeadModel(config)
    config = hf.RobertaConfig(intermediate_size=32, type_vocab_size=1, **size)
    return hf.RobertaForMaskedLM(config)


@pytest.fixture(scope="session")
def family(tmp_path_factory):
    """`family("opt" | "llama" | "gpt2" | "roberta", width)`: a folder that from_pretrained loads."""

    @cache
    def folder(kind: str, width: int = 16) -> Path:
        path = tmp_path_factory.mktemp(kind)
        vocabulary = save_tokenizer(path, masked=kind == "roberta")
        model_of(kind, vocabulary, width).save_pretrained(path)
        return path

    return folder


@pytest.fixture(scope="session")
def reviews(tmp_path_factory) -> Path:
    """Sentences of unlike length, so that batches are padded."""
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    rows = [
        {
            "sentence": f"{'the plot was a film . ' * (n % 3)}the film was {'bright' if n % 2 else 'dull'}",
            "label": n % 2,
        }
        for n in range(40)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path
