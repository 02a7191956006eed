"""Every real recipe runs: a few steps with a tiny random model of its architecture on a local file."""

import json
from pathlib import Path

import pytest

from zoft.config import load_config
from zoft.finetune import main

REAL = {
    "opt-125m-sst2": "opt",
    "opt-1.3b-sst2": "opt",
    "opt-13b-sst2": "opt",
    "opt-13b-sst2-zoft": "opt",
    "opt-13b-rte": "opt",
    "roberta-large-sst2-k16": "roberta",
    "llama-3-8b-sst2": "llama",
    "minilm-sst2": "encoder",
}


@pytest.mark.parametrize(("recipe", "architecture"), REAL.items(), ids=REAL)
def test_recipe_runs(recipe, architecture, tiny_folder, data_file, tmp_path: Path) -> None:
    task = load_config([f"recipe={recipe}"]).run.task
    out = tmp_path / "out"
    arguments = [
        f"recipe={recipe}", f"model={tiny_folder(architecture)}", f"train_file={data_file(task, 80)}",
        f"validation_file={data_file(task, 12, 'held-out.jsonl')}", f"output_dir={out}", "use_cpu=true", "max_steps=3",
        "logging_steps=1", "disable_tqdm=true", "eval_strategy=steps", "eval_steps=3", "save_strategy=steps", "save_steps=3",
        "num_train=32", "num_dev=8", "num_test=8",
    ]  # fmt: skip
    assert main(arguments) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["steps"] == 3 and summary["skipped_steps"] == 0 and 0 <= summary["after"] <= 1
    assert (out / "run.png").stat().st_size > 1000 and (out / "model.safetensors").is_file()


def test_every_real_recipe_is_covered() -> None:
    from zoft.config import all_recipes

    names = {recipe.name for recipe in all_recipes()}
    offline = {name for name in names if name.startswith(("quickstart", "arithmetic", "eos-"))}
    assert names - offline == set(REAL)


def test_a_model_that_cannot_be_had_is_named_with_its_download(tmp_path: Path, monkeypatch, capsys) -> None:
    """One recipe for each model, of files and book, on a machine without a network and with nothing in its cache."""
    from zoft.config import all_recipes
    from zoft.config.listing import to_download

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    wanted = {recipe.settings()["model"]: recipe.name for recipe in all_recipes(book=True)}
    models = [model for model in wanted if "/" in model]
    assert len(models) == 12
    for model in models:
        assert main([f"recipe={wanted[model]}", f"output_dir={tmp_path / 'out'}"]) == 2
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("zoft: ")]
        assert len(said) == 1 and f"this run downloads {to_download(model)}" in said[0]
    assert not (tmp_path / "out").exists()


def test_the_worlds_that_are_made_here_are_the_listings() -> None:
    from zoft.config.listing import WORLDS
    from zoft.finetune import materials

    assert set(WORLDS) == set(materials.WORLDS)
