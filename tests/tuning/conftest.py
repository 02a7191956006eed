"""Tiny random models of ten families, with a tokenizer and a data file."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.finetune.conftest import save_tokenizer

SIZE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64}
MASKED = ("roberta", "bert")
CAUSAL = ("opt", "llama", "gpt2", "qwen3", "mistral", "gemma", "gpt_neox", "gpt_neo")
FAMILIES = (*CAUSAL, *MASKED)
WITHOUT_BIASES = ("llama", "qwen3", "mistral", "gemma")


def model_of(kind: str, vocabulary: int, width: int = 16) -> Any:
    """Qwen3 and Gemma have heads that are together wider than the model, as their published configurations do."""
    import transformers as hf

    size: Any = {**SIZE, "hidden_size": width, "vocab_size": vocabulary}
    gated: Any = {**size, "intermediate_size": 32, "num_key_value_heads": 1, "pad_token_id": 1}
    torch.manual_seed(0)
    if kind == "opt":
        return hf.OPTForCausalLM(hf.OPTConfig(ffn_dim=32, word_embed_proj_dim=width, pad_token_id=1, **size))
    if kind == "llama":
        return hf.LlamaForCausalLM(hf.LlamaConfig(**gated))
    if kind == "qwen3":
        return hf.Qwen3ForCausalLM(hf.Qwen3Config(head_dim=width, **gated))
    if kind == "mistral":
        return hf.MistralForCausalLM(hf.MistralConfig(head_dim=width // 2, sliding_window=32, **gated))
    if kind == "gemma":
        return hf.GemmaForCausalLM(hf.GemmaConfig(head_dim=width, **gated))
    if kind == "gpt_neox":
        return hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(intermediate_size=32, pad_token_id=1, **size))
    if kind == "gpt_neo":
        kinds: Any = [[["global", "local"], 1]]
        return hf.GPTNeoForCausalLM(hf.GPTNeoConfig(vocab_size=vocabulary, hidden_size=width, num_layers=2, num_heads=2,
            max_position_embeddings=64, window_size=32, attention_types=kinds, pad_token_id=1))  # fmt: skip
    if kind == "gpt2":
        config = hf.GPT2Config(vocab_size=vocabulary, n_embd=width, n_layer=2, n_head=2, n_positions=64, bos_token_id=0)
        config.eos_token_id, config.pad_token_id = 2, 1
        return hf.GPT2LMHeadModel(config)
    if kind == "bert":
        return hf.BertForMaskedLM(hf.BertConfig(intermediate_size=32, pad_token_id=1, **size))
    config = hf.RobertaConfig(intermediate_size=32, type_vocab_size=1, **size)
    return hf.RobertaForMaskedLM(config)


@pytest.fixture(scope="session")
def family(tmp_path_factory):
    """`family(one of FAMILIES, width)`: a folder that from_pretrained loads."""

    @cache
    def folder(kind: str, width: int = 16) -> Path:
        path = tmp_path_factory.mktemp(kind)
        vocabulary = save_tokenizer(path, masked=kind in MASKED)
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
