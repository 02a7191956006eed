"""`zoft plan`: what fits is told from what does not, and more of something costs what it should."""

from dataclasses import replace

import pytest
import torch
import transformers as hf

from zoft.cli import main
from zoft.config import load_config
from zoft.config.book.models import MODELS
from zoft.config.listing import step_bytes
from zoft.config.recipes import read_recipe
from zoft.config.setup import setup_of, with_residuals
from zoft.costs.devices import DEVICES
from zoft.costs.memory import Setup, step_memory, stored_bytes
from zoft.costs.seconds import step_seconds
from zoft.costs.sizes import decoder
from zoft.plan.shape import counted
from zoft.plan.ways import Way

THIRTEEN = MODELS["opt-13b"].sizes


def said(capsys, *words: str) -> tuple[int, str, str]:
    status = main(["plan", *words])
    out, err = capsys.readouterr()
    return status, out, err


def test_a_run_that_does_not_fit_is_refused_with_what_would(capsys) -> None:
    status, out, err = said(capsys, "recipe=opt-13b-sst2", "--memory", "24GB", "device=4090")
    assert status == 2 and "a step needs 51" in err and "a device has 24.0 GB" in err
    assert "nf4, lora: " in err and "streamed: " in err and "memory_budget=24GB" in err and "16 bits" not in err
    lines = {line.split("  ")[0]: line.split() for line in out.splitlines() if "GB" in line and "  " in line}
    assert "no" in lines["as asked for"] and "no" in lines["16 bits"]
    assert "yes" in lines["nf4, lora"] and "yes" in lines["nf4, scales"] and "yes" in lines["streamed"]
    assert "data sheet" in out and "not measured" in out


def test_a_run_that_fits_is_planned_for_several(capsys) -> None:
    status, out, err = said(capsys, "recipe=opt-13b-sst2-zoft", "device=h200", "gpus=4")
    assert status == 0 and not err
    assert "4 replicas" in out and "4 shards (FSDP2)" in out and "20,000 steps" in out


def test_recipes_and_plan_compute_alike() -> None:
    for name in ("opt-13b-rte-lora", "opt-30b-sst2-prefix", "llama-2-7b-rte-zoft"):
        recipe = read_recipe(name)
        settings = recipe.settings()
        model = next(model for model in MODELS.values() if model.hub == settings["model"])
        assert step_bytes(recipe) == step_memory(model.sizes, setup_of(settings)).total


def test_memory_of_a_quantised_base_is_that_of_its_codes_and_scales() -> None:
    """Checked by hand: 40 blocks of 12 h^2 weights of 4 bits and a 64th of float32; the rest in 16 bits."""
    blocks, rest = 40 * 12 * 5120**2, THIRTEEN.parameters - 40 * 12 * 5120**2
    setup = Setup(dtype="bfloat16", tuning="scales", quantization="nf4")
    assert stored_bytes(THIRTEEN, setup) == pytest.approx(blocks / 2 + blocks / 64 * 4 + 2 * rest)


def test_points_in_lockstep_hold_their_activations_at_once(capsys) -> None:
    told = []
    for more in ([], ["zo_panels=lockstep"], ["zo_panels=lockstep", "zo_directions=4", "zo_row_budget=64"]):
        status, out, _ = said(
            capsys, "recipe=opt-13b-sst2-zoft", "device=h200", "per_device_train_batch_size=16", *more
        )
        assert status == 0
        line = next(line for line in out.splitlines() if line.startswith("as asked for: weights"))
        told.append(float(line.split("activations ")[1].split()[0]))
    assert told[1] == pytest.approx(2 * told[0], rel=0.02) and told[2] == pytest.approx(4 * told[0], rel=0.02)


def test_ways_in_which_weights_come_and_go_are_told_without_lockstep(capsys) -> None:
    _, out, _ = said(capsys, "recipe=quickstart", "zo_panels=lockstep", "gpus=2")
    ways = [line for line in out.splitlines() if "memory_budget=" in line or "fsdp_size=" in line]
    assert len(ways) == 2 and all(line.rstrip().endswith("zo_panels=jit") for line in ways)


@pytest.mark.parametrize(
    "more",
    [
        ["method=mezo"],
        ["zo_rule=hizoo", "zo_estimator=three_point"],
        ["guard=rewind"],
        ["zo_distribution=sphere", "perturbation=read_only"],
        [],
    ],
)
def test_only_ways_that_the_run_could_be_begun_in_are_told(capsys, monkeypatch, more) -> None:
    told: list[Way] = []
    monkeypatch.setattr("zoft.plan.words.text", lambda plan: told.extend(plan.ways) or "")
    asked = ["recipe=opt-13b-sst2", *more]
    said(capsys, *asked, "gpus=4", "device=h100", "memory=24GB")
    assert told[0].name == "as asked for" and "16 bits" in [way.name for way in told]
    for way in told:
        assert load_config([*asked, *way.words], {})
    moving = {"streamed", "4 shards (FSDP2)"}  # these were told of every run
    assert moving & {way.name for way in told} == (set() if more else moving)


def test_a_run_in_place_is_sharded_read_only(capsys) -> None:
    """As other ways, with what has to be written for it; where it is not needed it is not written."""
    for recipe, written in (("opt-13b-sst2", True), ("opt-13b-sst2-zoft", False)):
        _, out, _ = said(capsys, f"recipe={recipe}", "memory=24GB", "device=4090", "gpus=8")
        (line,) = (line for line in out.splitlines() if line.startswith("8 shards (FSDP2)"))
        assert "fsdp_size=8 zo_light_checkpoints=true load_best_model_at_end=false" in line and "  yes  " in line
        assert line.endswith(" perturbation=read_only") == written


def test_mezo_is_planned_as_it_steps(capsys) -> None:
    """In place whatever the recipe says, along normals, without residual bits, and what it leaves out is said."""
    status, out, _ = said(capsys, "recipe=opt-13b-sst2-zoft", "method=mezo", "device=h200")
    assert status == 0 and "beside them 0 GB" in out and "method=mezo is MeZO's own step, which has no " in out
    _, plain, _ = said(capsys, "recipe=opt-13b-sst2-zoft", "device=h200")
    assert "beside them 25.7 GB" in plain and "streamed" in plain and "streamed" not in out


def test_shards_and_replicas_take_their_share() -> None:
    setup = Setup(dtype="bfloat16", rows=16)
    one, eight = step_memory(THIRTEEN, setup), step_memory(THIRTEEN, replace(setup, shards=8))
    assert eight.weights == one.weights / 8 and eight.scratch > one.scratch
    device = DEVICES["4090"]
    whole = step_seconds(THIRTEEN, setup, device, 2)
    share = step_seconds(THIRTEEN, replace(setup, rows=2), device, 2)
    assert whole.forwards > 3 * share.forwards and whole.passes == share.passes
    sharded = step_seconds(THIRTEEN, replace(setup, rows=2, shards=8), device, 2)
    assert sharded.waiting > 0 and sharded.total > share.total


def test_streaming_waits_only_for_what_the_forwards_do_not_hide() -> None:
    device, setup = DEVICES["4090"], Setup(dtype="bfloat16", rows=16, tokens=512)
    hidden = step_seconds(THIRTEEN, setup, device, 2, streamed=1e9)
    assert hidden.waiting == 0.0
    assert step_seconds(THIRTEEN, setup, device, 2, streamed=1e12).waiting > 10


def test_residual_bits_take_only_memory_that_is_free() -> None:
    setup = Setup(dtype="bfloat16")
    kept = [with_residuals(THIRTEEN, setup, {}, memory) for memory in (200e9, 80e9, 40e9)]
    assert kept == [2, 1, 0]
    assert with_residuals(THIRTEEN, replace(setup, dtype="float32"), {}, 1e12) == 0


def test_sizes_are_counted_on_a_model_without_weights() -> None:
    """They agree with the formulas that the recipe book's table is made by."""
    with torch.device("meta"):
        opt = hf.OPTForCausalLM(
            hf.OPTConfig(
                hidden_size=256, word_embed_proj_dim=256, ffn_dim=1024, num_hidden_layers=3, num_attention_heads=4
            )
        )
        llama = hf.LlamaForCausalLM(
            hf.LlamaConfig(
                hidden_size=256,
                intermediate_size=640,
                num_hidden_layers=3,
                num_attention_heads=4,
                num_key_value_heads=2,
            )
        )
    for model, inner, keys, gated in ((opt, 1024, 256, False), (llama, 640, 128, True)):
        found = counted(model)
        wanted = decoder(found.parameters, 256, inner, 3, model.config.vocab_size, keys, 256, gated)
        assert found == wanted


def test_an_offline_world_and_a_folder_are_planned(capsys, tmp_path) -> None:
    status, out, _ = said(capsys, "recipe=quickstart", "device=laptop")
    assert status == 0 and "112,512 weights" in out and "as asked for" in out
    config = hf.GPT2Config(n_embd=64, n_layer=2, n_head=2, vocab_size=100)
    config.architectures = ["GPT2LMHeadModel"]
    config.save_pretrained(tmp_path)
    status, out, _ = said(capsys, f"model={tmp_path}", "task=sst2", "device=laptop", "tokens=32")
    assert status == 0 and "x 32 tokens" in out


def test_the_monitor_takes_forwards_of_the_runs_that_have_one(capsys) -> None:
    for word, forwards in (("method=zo", "2.1"), ("stability=off", "2"), ("method=mezo", "2")):
        _, out, _ = said(capsys, "recipe=quickstart", "device=h200", word)
        assert f"a step: {forwards} forwards" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["recipe=opt-13b-sst2", "device=h20"], "device 'h20' is not in the table"),
        (["recipe=opt-13b-sst2", "device=none.csv"], "there is no such file; write one with zoft bench --csv"),
        (["recipe=opt-13b-sst2", "device=h200", "memory=lots"], "must be a number and kB, MB"),
        (["recipe=opt-13b-sst2", "device=h200", "gpus=0"], "gpus must be a whole number"),
        (["recipe=opt-13b-sst2", "--memory"], "memory needs a value"),
        (["recipe=opt-13b-sst2", "method=adamw", "device=h200"], "zoft plan knows zeroth-order steps"),
        (["recipe=eos-gd"], "there is nothing to plan"),
        (["recipe=opt-13b-sst2", "learnin_rate=1"], "did you mean learning_rate"),
    ],
)
def test_what_cannot_be_planned_is_named(words, message, capsys) -> None:
    status, _, err = said(capsys, *words)
    assert status == 2 and message in err


def test_rates_come_from_the_benchmarks_file(capsys, tmp_path) -> None:
    path = tmp_path / "step.csv"
    path.write_text("date,device,dtype,bandwidth_GB_s,product_TFLOP_s\n2026-01-01,NVIDIA H100 80GB,bfloat16,2500,600\n")
    status, out, _ = said(capsys, "recipe=opt-13b-sst2-zoft", f"device={path}")
    assert status == 0 and "2,500 GB/s, bfloat16 products 600 TFLOP/s" in out and "products on 2026-01-01" in out
    status, _, err = said(capsys, "recipe=opt-13b-sst2", f"device={path}")
    assert status == 2 and "holds no row of zoft bench for float32" in err


def test_a_plan_knows_how_many_logits_are_made_at_once() -> None:
    from zoft.costs import memory
    from zoft.objectives import token_likelihood

    assert memory.LOGITS == token_likelihood.LOGITS
