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
