"""A quantised base under an adapter, or by its scales: it trains, resumes and replays, and its codes stay what they were."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tuning.test_schemes import arguments, weight_file
from zoft import ZOOptimizer, from_trajectory
from zoft.errors import UsageError
from zoft.finetune import main
from zoft.models import load_model
from zoft.trajectory.publish import pack
from zoft.tuning import scaled_linear
from zoft.tuning.scaled_linear import scaled
from zoft.tuning.settings import TuningSettings
from zoft.tuning.table import apply_tuning

pytest.importorskip("bitsandbytes")


def stored(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items() if "lora_" not in name}


@pytest.mark.filterwarnings("ignore:MatMul8bitLt")
@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_quantised_base_under_lora(kind, family, reviews, tmp_path: Path, monkeypatch) -> None:
    from zoft.finetune import materials, session

    seen = []

    def gather(run):
        made = materials.gather_materials(run)
        seen.append((made.model, stored(made.model)))
        return made

    monkeypatch.setattr(session, "gather_materials", gather)
    base, whole, part = family("opt", 64), tmp_path / "whole", tmp_path / "part"
    changes = {"quantization": kind, "dtype": "float32", "learning_rate": 1e-2}
    assert main(arguments(base, reviews, whole, "lora", **changes)) == 0
    model, before = seen[0]
    after = stored(model)
    whole_numbers = [name for name, value in after.items() if not value.is_floating_point()]
    assert sum("proj" in name or "fc" in name for name in whole_numbers) >= 12, "two blocks of six linear layers"
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
    moved = [name for name, weight in model.named_parameters() if "lora_B" in name and bool(weight.any())]
    assert len(moved) == 4, "query and value of two blocks"

    assert main(arguments(base, reviews, part, "lora", **changes, resume_from_checkpoint=whole / "checkpoint-2")) == 0
    assert weight_file(whole).read_bytes() == weight_file(part).read_bytes()

    again, theirs = from_trajectory(whole), dict(model.named_parameters())
    assert all(torch.equal(weight, theirs[name]) for name, weight in again.named_parameters() if "lora_" in name)


@pytest.mark.parametrize("tuning", ["full", "head", "last_k", "bias"])
def test_weights_of_a_quantised_base_are_not_trained_themselves(tuning) -> None:
    with pytest.raises(UsageError, match=f"quantization=nf4.*tuning={tuning} cannot train them; use tuning=lora"):
        TuningSettings(tuning=tuning, quantization="nf4")


def codes(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in model.named_parameters() if not weight.is_floating_point()}


@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
def test_the_scales_of_a_quantised_base_are_trained(kind, family, reviews, tmp_path: Path) -> None:
    """The command: resume and replay give the same bytes, only scales move, and Transformers alone loads what is saved."""
    base, whole, part = family("opt", 64), tmp_path / "whole", tmp_path / "part"
    changes = {"quantization": kind, "dtype": "float32", "learning_rate": 1e-2}
    assert main(arguments(base, reviews, whole, "scales", **changes)) == 0
    assert main(arguments(base, reviews, part, "scales", **changes, resume_from_checkpoint=whole / "checkpoint-2")) == 0
    assert weight_file(whole).read_bytes() == weight_file(part).read_bytes()

    start = dict(
        apply_tuning(load_model(str(base), dtype="float32", quantization=kind), tuning="scales").named_parameters()
    )
    ended = dict(apply_tuning(load_model(str(whole)), tuning="scales").named_parameters())
    moved = {name for name, weight in ended.items() if not torch.equal(weight, start[name])}
    assert moved == {name for name in start if name.endswith(".scales")} and len(moved) == 12

    pack(whole, tmp_path / "packed")
    for source in (whole, tmp_path / "packed"):
        again = dict(from_trajectory(source).named_parameters())
        assert all(torch.equal(again[name], weight) for name, weight in ended.items())


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_scales_alone_lower_the_loss(kind, family) -> None:
    model = apply_tuning(load_model(str(family("llama", 64)), dtype="float32", quantization=kind), tuning="scales")
    ids = torch.randint(4, 20, (8, 12), generator=torch.Generator().manual_seed(0))
    before, wanted = codes(model), torch.full_like(ids, 7)
    optimizer = ZOOptimizer(model, lr=1e-2)
    losses = [optimizer.step(lambda: model(input_ids=ids, labels=wanted, use_cache=False).loss) for _ in range(300)]
    first, last = sum(losses[:10]) / 10, sum(losses[-10:]) / 10
    assert last < 0.8 * first, f"{first:.3f} to {last:.3f}"
    assert before and all(torch.equal(weight, before[name]) for name, weight in codes(model).items())


@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
@pytest.mark.parametrize("shape", [(64, 24), (40, 96), (33, 10)])
def test_a_layer_in_tiles_is_the_layer(kind, shape, monkeypatch) -> None:
    """Codes times scales in the order of memory, also where blocks of 64 codes do not end with a row."""
    import bitsandbytes as bnb

    plain = torch.nn.Linear(shape[1], shape[0])
    options: Any = {"quant_type": kind, "compress_statistics": False} if kind != "int8" else {"has_fp16_weights": False}
    theirs: Any = (bnb.nn.Linear8bitLt if kind == "int8" else bnb.nn.Linear4bit)(shape[1], shape[0], **options)
    theirs.load_state_dict(plain.state_dict())
    theirs = theirs.to("cpu")
    mine = scaled(theirs)
    assert mine is not None and mine.state_dict().keys() == theirs.state_dict().keys()
    x = torch.randn(3, shape[1])
    wanted = x @ dequantised(theirs, kind).t() + plain.bias
    whole = mine(x)
    torch.testing.assert_close(whole, wanted)
    monkeypatch.setattr(scaled_linear, "TILE_BYTES", 1)
    assert mine.tile_rows(4) < shape[0]
    torch.testing.assert_close(mine(x), whole)


def dequantised(layer: Any, kind: str) -> torch.Tensor:
    import bitsandbytes.functional as bnb

    if kind == "int8":
        return bnb.int8_vectorwise_dequant(layer.weight.data, layer.state_dict()["SCB"])
    state, codes = layer.weight.quant_state, layer.weight.data.view(-1)
    values = state.code[torch.stack((codes >> 4, codes & 15), dim=1).view(-1).long()]
    absmax = bnb.dequantize_blockwise(state.absmax, state.state2) + state.offset if state.nested else state.absmax
    return (values * absmax.repeat_interleave(state.blocksize)[: len(values)]).view(state.shape)


def test_scales_that_are_quantised_themselves_are_made_plain(tmp_path: Path, family) -> None:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    twice = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    model: Any = AutoModelForCausalLM.from_pretrained(family("opt", 64), quantization_config=twice)
    layer = model.model.decoder.layers[0].fc1
    before = dequantised(layer, "nf4")
    mine = apply_tuning(model, tuning="scales").model.decoder.layers[0].fc1
    assert mine.scales.dtype is torch.float32
    torch.testing.assert_close(mine.rows(0, mine.out_features, torch.float32), before)
    model.save_pretrained(tmp_path)
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(dequantised(loaded.model.decoder.layers[0].fc1, "nf4"), before)


def test_scales_need_a_quantised_base_and_no_gradient(family, reviews, tmp_path, capsys) -> None:
    for changes, message in (
        ({}, "OPTForCausalLM holds no such layer; add quantization=nf4"),
        ({"quantization": "nf4", "method": "adamw"}, "no gradient passes through quantised weights"),
    ):
        assert main(arguments(family("opt", 64), reviews, tmp_path / "out", "scales", **changes)) == 2
        assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "told", [{"quant_method": "gptq", "bits": 4}, {"quant_method": "fp8"}, {"quant_method": "awq"}]
)
def test_another_format_is_refused_before_weights_are_read(told, family, reviews, tmp_path, capsys) -> None:
    folder = tmp_path / "stored"
    shutil.copytree(family("opt", 64), folder)
    (folder / "model.safetensors").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": told}))
    assert main(arguments(folder, reviews, tmp_path / "out", "lora")) == 2
    said = capsys.readouterr().err
    assert f"stored as {told['quant_method']}" in said and "quantization=nf4, fp4 or int8" in said
