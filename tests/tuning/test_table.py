"""What a scheme chooses, where it starts, and what is refused before the first step."""

import pytest
import torch
from torch import nn

from tests.tuning.conftest import CAUSAL, FAMILIES, MASKED, WITHOUT_BIASES, model_of
from zoft.errors import UsageError
from zoft.finetune import main
from zoft.models import context_length, virtual_tokens
from zoft.objectives.forward import last_logits, logits_at, mask_logits
from zoft.tuning.prefix import activations
from zoft.tuning.settings import ADAPTERS
from zoft.tuning.table import SCHEMES, apply_tuning

WORDS = 21


def trained(model: nn.Module) -> list[str]:
    return [name for name, weight in model.named_parameters() if weight.requires_grad]


def test_every_scheme_is_a_setting() -> None:
    from zoft.config import known_settings

    assert set(known_settings()["tuning"].choices) == SCHEMES.keys()
    assert {name for name, scheme in SCHEMES.items() if scheme.peft_type} == set(ADAPTERS)


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_prefix_starts_as_what_the_model_computes(kind) -> None:
    """Attention over a prefix made of the text's own first tokens is attention over those tokens."""
    model = model_of(kind, WORDS).eval()
    tokens = torch.tensor([7, 9, 11])
    flat = activations(model, tokens)
    assert torch.equal(activations(model.train(), tokens), flat) and all(module.training for module in model.modules())
    peft = apply_tuning(model, tuning="prefix", virtual_tokens=3).eval()
    peft.prompt_encoder["default"].load_prompt_embeddings(flat)
    with torch.no_grad():
        keys = peft.get_prompt(batch_size=1).layers[1].keys
        rest = torch.tensor([[8, 13]])
        mask = torch.ones_like(rest)
        if kind in MASKED:  # its tokens see those behind them, so only the prefix itself can be compared
            assert keys.shape[2] == 3 and torch.equal(keys[0].transpose(0, 1).flatten(), flat[:, 32:48].flatten())
            return
        seen = last_logits(peft, {"input_ids": rest, "attention_mask": mask})
        text = torch.cat((tokens, rest[0])).unsqueeze(0)
        whole = last_logits(peft.get_base_model(), {"input_ids": text, "attention_mask": torch.ones_like(text)})
    torch.testing.assert_close(seen, whole)


@pytest.mark.parametrize("kind", CAUSAL)
@pytest.mark.parametrize("tuning", ["prefix", "prompt"])
def test_padding_changes_nothing(kind, tuning) -> None:
    """A row reads the same alone and beside a longer one, at one position and at several."""
    model = apply_tuning(model_of(kind, WORDS), tuning=tuning, virtual_tokens=4).eval()
    short = {"input_ids": torch.tensor([[7, 9, 11]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    ids = torch.tensor([[1, 1, 7, 9, 11], [6, 8, 10, 12, 14]])
    padded = {"input_ids": ids, "attention_mask": (ids != 1).long()}
    with torch.no_grad():
        torch.testing.assert_close(last_logits(model, padded)[:1], last_logits(model, short))
        torch.testing.assert_close(
            logits_at(model, padded, torch.tensor([3, 4]))[:1], logits_at(model, short, torch.tensor([1, 2]))
        )
        plain = model(**short).logits[:, -1]
    torch.testing.assert_close(last_logits(model, short), plain)


@pytest.mark.parametrize("kind", MASKED)
@pytest.mark.parametrize("tuning", ["prefix", "prompt"])
def test_a_mask_is_read_where_it_stands(kind, tuning) -> None:
    model = apply_tuning(model_of(kind, WORDS), tuning=tuning, virtual_tokens=4).eval()
    ids = torch.tensor([[7, 4, 9], [4, 8, 1]])
    batch = {"input_ids": ids, "attention_mask": (ids != 1).long(), "read_at": torch.tensor([1, 0])}
    with torch.no_grad():
        plain = model(input_ids=ids, attention_mask=batch["attention_mask"]).logits[:, -3:]
        torch.testing.assert_close(mask_logits(model, batch), torch.stack((plain[0, 1], plain[1, 0])))


def test_virtual_tokens_take_room() -> None:
    model = model_of("opt", WORDS)
    whole = context_length(model)
    peft = apply_tuning(model, tuning="prompt")
    assert virtual_tokens(peft) == 10 and context_length(peft) == whole - 10


def test_what_is_trained() -> None:
    assert {name.rsplit(".", 1)[-1] for name in trained(apply_tuning(model_of("gpt2", WORDS), tuning="bias"))} == {
        "bias"
    }
    names = trained(apply_tuning(model_of("llama", WORDS), tuning="last_k"))
    assert names and all(name.startswith("model.layers.1.") for name in names)
    model = apply_tuning(model_of("opt", WORDS), tuning="head")
    assert trained(model) == ["lm_head.weight"]
    assert torch.equal(model.lm_head.weight, model.model.decoder.embed_tokens.weight)
    assert model.lm_head.weight is not model.model.decoder.embed_tokens.weight
    assert apply_tuning(model := model_of("llama", WORDS), tuning="full") is model


@pytest.mark.parametrize("kind", FAMILIES)
def test_biases_alone_are_refused_where_there_are_none(kind) -> None:
    model = model_of(kind, WORDS)
    if kind not in WITHOUT_BIASES:
        assert {name.rsplit(".", 1)[-1] for name in trained(apply_tuning(model, tuning="bias"))} == {"bias"}
        return
    with pytest.raises(UsageError, match=f"tuning=bias: {type(model).__name__} has no biases.*use tuning=lora"):
        apply_tuning(model, tuning="bias")


def test_what_cannot_work_is_named(family, reviews, tmp_path, capsys) -> None:
    for tuning, kind, changes, message in (
        ("bias", "llama", {}, "tuning=bias: LlamaForCausalLM has no biases, so nothing would be trained"),
        ("last_k", "opt", {"last_k": 3}, "last_k=3, but OPTForCausalLM has 2 blocks"),
        (
            "lora",
            "opt",
            {"lora_target_modules": "[q_proj,w_proj]"},
            "names 'w_proj', which OPTForCausalLM does not have",
        ),
        ("lora", "opt", {"lora_target_modules": "nothing.*here"}, "set lora_target_modules"),
        ("prefix", "opt", {"virtual_tokens": 0}, "virtual_tokens must be at least 1"),
        ("lorra", "opt", {}, "tuning"),
    ):
        values = {
            "model": family(kind),
            "task": "sst2",
            "train_file": reviews,
            "output_dir": tmp_path / "out",
            **changes,
        }
        assert main([f"tuning={tuning}", *(f"{name}={value}" for name, value in values.items())]) == 2
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("zoft: ")]
        assert len(said) == 1 and message in said[0]
        assert not (tmp_path / "out").exists()


def test_an_adapter_of_another_kind_is_refused() -> None:
    peft = apply_tuning(model_of("opt", WORDS), tuning="prefix")
    assert apply_tuning(peft, tuning="prefix") is peft
    for tuning in ("full", "lora"):
        with pytest.raises(UsageError, match="holds an adapter of PEFT's type PREFIX_TUNING; use tuning=prefix"):
            apply_tuning(peft, tuning=tuning)


def test_integers_cannot_be_trained() -> None:
    model = model_of("llama", WORDS)
    stored = model.model.layers[0].mlp.up_proj.weight.detach()
    model.model.layers[0].mlp.up_proj.weight = nn.Parameter(stored.to(torch.int8), requires_grad=False)
    with pytest.raises(UsageError, match=r"up_proj\.weight' holds integers.*tuning=lora"):
        apply_tuning(model, tuning="full")
    model = model_of("llama", WORDS)
    model.is_quantized = True
    with pytest.raises(UsageError, match=r"tuning=bias.*says that it is quantised"):
        apply_tuning(model, tuning="bias")
