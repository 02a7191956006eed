"""Tiny random models of real architectures, and small data files, for whole runs of the command."""

import json
from pathlib import Path

import pytest
import torch

WORDS = [
    "a",
    "the",
    "film",
    "was",
    "It",
    "good",
    "bad",
    "dull",
    "bright",
    "plot",
    "Yes",
    "No",
    "great",
    "terrible",
    "?",
    ".",
]
SIZE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 130}


def save_tokenizer(folder: Path, masked: bool) -> int:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    pair = [("<s>", 0), ("</s>", 2)]
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if masked else "<s> $A", special_tokens=pair if masked else pair[:1]
    )
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    if masked:
        names["mask_token"] = "<mask>"
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(folder)
    return len(vocabulary)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """`tiny_folder("opt" | "llama" | "roberta" | "encoder")`: a folder that from_pretrained loads; the last has no head."""
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind in made:
            return made[kind]
        import transformers as hf

        path = tmp_path_factory.mktemp(kind)
        vocabulary = save_tokenizer(path, masked=kind in ("roberta", "encoder"))
        torch.manual_seed(0)
        if kind == "opt":
            config = hf.OPTConfig(vocab_size=vocabulary, ffn_dim=32, word_embed_proj_dim=16, pad_token_id=1, **SIZE)
            model = hf.OPTForCausalLM(config)
        elif kind == "llama":
            config = hf.LlamaConfig(
                vocab_size=vocabulary, intermediate_size=32, num_key_value_heads=1, pad_token_id=1, **SIZE
            )
            model = hf.LlamaForCausalLM(config)
        elif kind == "encoder":
            config = hf.BertConfig(
                vocab_size=vocabulary, intermediate_size=32, pad_token_id=1, initializer_range=0.5, **SIZE
            )
            model = hf.BertModel(config)
        else:
            config = hf.RobertaConfig(vocab_size=vocabulary, intermediate_size=32, type_vocab_size=1, **SIZE)
            model = hf.RobertaForMaskedLM(config)
        model.save_pretrained(path)
        made[kind] = path
        return path

    return folder


@pytest.fixture
def data_file(tmp_path):
    """`data_file(task, n)`: a jsonl file of n rows of the task."""

    def write(task: str, number: int, name: str = "rows.jsonl") -> Path:
        rows = []
        for index in range(number):
            label = index % 2
            if task == "sst2":
                rows.append({"sentence": f"the film was {'bright' if label else 'dull'} .", "label": label})
            else:
                rows.append({"premise": "the film was good .", "hypothesis": "the plot was bad .", "label": label})
        path = tmp_path / name
        path.write_text("\n".join(map(json.dumps, rows)))
        return path

    return write
