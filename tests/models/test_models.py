"""Loading models: what a folder was made for, how much it reads, what is refused."""

import functools
import os
from pathlib import Path

import pytest
import torch
import transformers as hf
from torch import nn

from zoft.errors import UsageError
from zoft.models import (
    apply_tuning,
    architecture_of,
    context_length,
    load_model,
    load_tokenizer,
    refuse_integer_weights,
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


def test_full_tuning_refuses_integers(folder):
    model = load_model(folder("llama"))
    assert apply_tuning(model, "full") is model
    stored = model.model.layers[0].mlp.up_proj.weight.detach()
    model.model.layers[0].mlp.up_proj.weight = nn.Parameter(stored.to(torch.int8), requires_grad=False)
    with pytest.raises(UsageError, match=r"up_proj\.weight' holds integers.*tuning=lora"):
        apply_tuning(model, "full")
    model = load_model(folder("llama"))
    model.is_quantized = True
    with pytest.raises(UsageError, match="says that it is quantised"):
        refuse_integer_weights(model)


@pytest.mark.parametrize("name", ["llama", "roberta", "encoder"])
def test_lora_trains_its_adapters_alone_and_comes_back(folder, tmp_path, name):
    model = apply_tuning(load_model(folder(name)), "lora", rank=4, alpha=8)
    moving = [n for n, weight in model.named_parameters() if weight.requires_grad]
    assert moving and all("lora_" in n or "classifier" in n for n in moving)
    with torch.no_grad():
        for path, weight in model.named_parameters():
            if "lora_B" in path:
                weight.fill_(0.25)
    model.save_pretrained(tmp_path)
    again = load_model(str(tmp_path))
    with pytest.raises(UsageError, match="holds a LoRA adapter"):
        apply_tuning(again, "full")
    assert apply_tuning(again, "lora") is again
    same = dict(model.named_parameters())
    trained = {n: weight for n, weight in again.named_parameters() if weight.requires_grad}
    assert sorted(trained) == sorted(moving)
    assert all(torch.equal(weight, same[n]) for n, weight in trained.items())
    assert architecture_of(str(tmp_path)) == architecture_of(folder(name))


def test_lora_names_what_is_not_there(folder):
    with pytest.raises(UsageError, match=r"tuning=lora: .*lora_target_modules"):
        apply_tuning(load_model(folder("llama")), "lora", targets=["no_such_module"])


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
