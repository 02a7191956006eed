"""Loading models: what a folder was made for, how much it reads, what is refused."""

import functools
import os
from pathlib import Path

import pytest
import torch
import transformers as hf

from zoft.errors import UsageError
from zoft.models import (
    architecture_of,
    context_length,
    load_model,
    load_tokenizer,
)

SIZES = {
    "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 48,
}  # fmt: skip
MADE = {
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**SIZES, num_key_value_heads=1)),
    "roberta": lambda: hf.RobertaForMaskedLM(hf.RobertaConfig(**SIZES)),
    "encoder": lambda: hf.BertModel(hf.BertConfig(**SIZES)).half(),
    "head": lambda: hf.BertForSequenceClassification(hf.BertConfig(**SIZES, num_labels=3)),
    "seq2seq": lambda: hf.T5ForConditionalGeneration(
        hf.T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    @functools.cache
    def made(name):
        torch.manual_seed(0)
        path = tmp_path_factory.mktemp(name)
        MADE[name]().save_pretrained(path)
        return str(path)

    return made


@pytest.fixture
def shared_models():
    path = Path(os.environ.get("ZOFT_SHARED", Path(__file__).parents[3] / "shared")) / "models"
    if not path.is_dir():
        pytest.skip(f"no real models: {path} is absent; set ZOFT_SHARED")
    return path


@pytest.mark.parametrize(
    ("name", "architecture"),
    [("llama", "causal"), ("roberta", "masked"), ("encoder", "classifier"), ("head", "classifier")],
)
def test_what_a_model_was_made_for(folder, name, architecture):
    assert architecture_of(folder(name)) == architecture


def test_an_encoder_and_decoder_is_refused(folder):
    with pytest.raises(UsageError, match="has an encoder and a decoder"):
        architecture_of(folder("seq2seq"))


def test_weights_come_in_the_type_asked_for(folder):
    assert load_model(folder("llama"), dtype="bfloat16").dtype == torch.bfloat16
    assert load_model(folder("encoder"), labels=2).dtype == torch.float16  # auto: as saved
    model = load_model(folder("encoder"), dtype="float32", labels=5)
    assert model.dtype == torch.float32 and model.config.num_labels == 5 and not model.training


def test_a_head_of_another_size_is_refused(folder):
    assert load_model(folder("head"), labels=3).config.num_labels == 3
    with pytest.raises(UsageError, match="its head tells 3 labels apart, but the task has 2"):
        load_model(folder("head"), labels=2)


@pytest.mark.parametrize(("name", "length"), [("llama", 48), ("roberta", 46), ("encoder", 48)])
def test_how_much_a_model_reads(folder, name, length):
    """RoBERTa's first position stands behind the padding index 1, so its table of 48 serves 46."""
    model = load_model(folder(name))
    assert context_length(model) == length
    ids = torch.full((1, length), 7)
    model(input_ids=ids, attention_mask=torch.ones_like(ids))
    if name != "llama":  # rotary positions have no end
        longer = torch.full((1, length + 1), 7)
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=longer, attention_mask=torch.ones_like(longer))
    tokenizer = type("Short", (), {"model_max_length": 20})()
    assert context_length(model, tokenizer) == 20


def test_missing_folders_are_named(tmp_path):
    for load in (architecture_of, load_model, load_tokenizer):
        with pytest.raises(UsageError, match="nowhere does not exist"):
            load(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no configuration"):
        load_model(str(tmp_path / "empty"))
    with pytest.raises(UsageError, match="tokenizer: nothing could be loaded"):
        load_tokenizer(str(tmp_path / "empty"))


def test_a_tokenizer_that_does_not_belong_is_refused(folder, shared_models):
    tokenizer = load_tokenizer(str(shared_models / "stories260k-llama"))
    with pytest.raises(UsageError, match="knows 40 tokens, but its tokenizer has one numbered 511"):
        load_model(folder("llama"), tokenizer=tokenizer)


def test_real_models_load_with_their_tokenizers(shared_models):
    for name, length in (("tinystories-instruct-chat-3m-gptneo", 256), ("stories260k-llama", 512)):
        path = str(shared_models / name)
        tokenizer = load_tokenizer(path)
        model = load_model(path, tokenizer=tokenizer)
        assert tokenizer.pad_token_id is not None and tokenizer.padding_side == "left"
        assert model.config.pad_token_id is not None and context_length(model, tokenizer) == length
