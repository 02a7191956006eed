"""Every scheme on every family: trains, is saved as plain PEFT and Transformers load it, resumes and replays bit for bit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.tuning.conftest import FAMILIES, MASKED, WITHOUT_BIASES
from zoft import from_trajectory
from zoft.finetune import main

SCHEMES = ("full", "lora", "prefix", "prompt", "head", "last_k", "bias")
CASES = [(f, s) for f in FAMILIES for s in SCHEMES if s != "bias" or f not in WITHOUT_BIASES]
HEADS = {"gpt_neox": "embed_out", "bert": "cls"}  # what the output head is called; elsewhere some kind of head


def arguments(model: Path, data: Path, out: Path, tuning: str, **changes: Any) -> list[str]:
    values = {
        "model": model, "task": "sst2", "train_file": data, "output_dir": out, "tuning": tuning, "use_cpu": "true",
        "max_steps": 4, "learning_rate": 1e-3, "num_train": 16, "num_dev": 4, "num_test": 4, "disable_tqdm": "true",
        "save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 4, "stability": "off", **changes,
    }  # fmt: skip
    return [f"{name}={value}" for name, value in values.items()]


def plainly_loaded(kind: str, folder: Path, base: Path) -> Any:
    """What somebody gets who has PEFT and Transformers but not zoft."""
    import transformers as hf
    from peft import PeftModel

    auto = hf.AutoModelForMaskedLM if kind in MASKED else hf.AutoModelForCausalLM
    if not (folder / "adapter_config.json").is_file():
        return auto.from_pretrained(folder)
    return PeftModel.from_pretrained(auto.from_pretrained(base), folder)


def weight_file(folder: Path) -> Path:
    names = ("adapter_model.safetensors", "model.safetensors")
    return next(folder / name for name in names if (folder / name).is_file())


@pytest.mark.parametrize(("kind", "tuning"), CASES)
def test_a_scheme_trains_saves_loads_resumes_and_replays(kind, tuning, family, reviews, tmp_path: Path) -> None:
    base, whole, part = family(kind), tmp_path / "whole", tmp_path / "part"
    assert main(arguments(base, reviews, whole, tuning)) == 0
    changes = {"resume_from_checkpoint": whole / "checkpoint-2"}
    assert main(arguments(base, reviews, part, tuning, **changes)) == 0
    assert weight_file(whole).read_bytes() == weight_file(part).read_bytes()

    mine, plain = from_trajectory(whole), plainly_loaded(kind, whole, base)
    theirs = dict(plain.named_parameters())
    assert all(torch.equal(weight, theirs[name]) for name, weight in mine.named_parameters())
    ids = torch.tensor([[0, 6, 7, 8, 9]])
    with torch.no_grad():
        assert torch.equal(mine.eval()(input_ids=ids).logits, plain.eval()(input_ids=ids).logits)

    before, after = load_file(weight_file(whole / "checkpoint-2")), load_file(weight_file(whole))
    moved = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
    assert moved
    if tuning == "bias":
        assert all(name.endswith("bias") for name in moved)
    if tuning == "head":
        assert all(HEADS.get(kind, "head") in name for name in moved) and not plain.config.tie_word_embeddings
    if tuning == "last_k":
        assert all(".1." in name for name in moved)
    if tuning in ("lora", "prefix", "prompt"):
        assert weight_file(whole).name.startswith("adapter")


@pytest.mark.parametrize("method", ["zo", "mezo", "adamw"])
def test_a_head_that_the_file_calls_otherwise_is_gone_on_with(method, family, reviews, tmp_path: Path) -> None:
    """GPT-NeoX's is `embed_out` in files and `lm_head` in memory: resumed, and loaded as the best, by every method."""
    base, whole, part = family("gpt_neox"), tmp_path / "whole", tmp_path / "part"
    changes: dict[str, Any] = {"method": method, "eval_strategy": "steps", "eval_steps": 2}
    if method != "zo":
        changes["learning_rate"] = 1e-2
    given = [a for a in arguments(base, reviews, whole, "full", **changes) if method == "zo" or a != "stability=off"]
    assert main([*given, "load_best_model_at_end=true"]) == 0
    best = {name: load_file(whole / name / "model.safetensors") for name in ("checkpoint-2", "checkpoint-4")}
    kept = load_file(whole / "model.safetensors")
    assert not torch.equal(best["checkpoint-2"]["embed_out.weight"], best["checkpoint-4"]["embed_out.weight"])
    state = json.loads((whole / "checkpoint-4/trainer_state.json").read_text())
    chosen = best[Path(state["best_model_checkpoint"]).name]
    assert all(torch.equal(value, chosen[name]) for name, value in kept.items())
    given = [a.replace(str(whole), str(part)) for a in given]
    assert main([*given, f"resume_from_checkpoint={whole / 'checkpoint-2'}"]) == 0
    assert (part / "checkpoint-4/model.safetensors").read_bytes() == (
        whole / "checkpoint-4/model.safetensors"
    ).read_bytes()


def test_a_classifiers_new_head_is_trained_and_kept(tmp_path: Path, reviews) -> None:
    import transformers as hf
    from peft import PeftModel

    from tests.finetune.conftest import save_tokenizer

    base = tmp_path / "encoder"
    vocabulary = save_tokenizer(base, masked=True)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    hf.BertModel(hf.BertConfig(vocab_size=vocabulary, **sizes)).save_pretrained(base)
    for tuning in ("lora", "head"):
        out = tmp_path / tuning
        assert main(arguments(base, reviews, out, tuning)) == 0
        plain: Any = hf.AutoModelForSequenceClassification.from_pretrained(base if tuning == "lora" else out)
        plain = PeftModel.from_pretrained(plain, out) if tuning == "lora" else plain
        theirs = dict(plain.named_parameters())
        mine = dict(from_trajectory(out).named_parameters())
        heads = [name for name in mine if "classifier" in name and "original" not in name]
        assert heads and all(torch.equal(mine[name], theirs[name]) for name in heads)
