"""Every YAML that comes with zoft loads, opens with its command, and says what it needs and should reach."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from zoft.config import load_config, packaged_folder, read_recipe
from zoft.config.recipes import names_in

RECIPES = packaged_folder("recipes")
NAMED = {
    "quickstart",
    "opt-125m-sst2",
    "opt-1.3b-sst2",
    "opt-13b-sst2",
    "opt-13b-sst2-zoft",
    "opt-13b-rte",
    "roberta-large-sst2-k16",
    "llama-3-8b-sst2",
}


def test_the_promised_recipes_are_there():
    assert set(names_in(RECIPES)) >= NAMED


@pytest.mark.parametrize("name", names_in(RECIPES))
def test_a_recipe_loads_and_describes_itself(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load_config([f"recipe={name}"], {})
    assert config.run.model and config.run.task
    for note in ("description", "needs", "expect", "source"):
        assert getattr(config.notes, note), f"{name} does not say its {note}"
    first = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith(("# accelerate launch ", "# python ")) and first.endswith(f"-m zoft.finetune recipe={name}")


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: path.stem)
def test_no_setting_is_written_twice(path: Path):
    keys = [node.value for node, _ in yaml.compose(path.read_text(encoding="utf-8")).value]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("name", ["opt-13b-sst2", "opt-13b-rte"])
def test_published_settings_stay_as_published(name):
    """MeZO, Table 16: 1000 / 500 / 1000 examples, 20,000 steps of batch 16, constant rate 1e-6 or 1e-7, eps 1e-3."""
    config = load_config([f"recipe={name}"], {})
    assert (config.run.num_train, config.run.num_dev, config.run.num_test) == (1000, "auto", 1000)
    assert config.run.model == "facebook/opt-13b"
    assert config.training["max_steps"] == 20000
    assert config.training["per_device_train_batch_size"] * config.training["gradient_accumulation_steps"] == 16
    assert config.training["learning_rate"] in (1e-6, 1e-7)
    assert config.training["lr_scheduler_type"] == "constant"
    assert config.training["weight_decay"] == 0.0
    assert config.zo.zo_eps == 1e-3
    assert config.zo.zo_distribution == "gaussian"
    assert config.zo.perturbation == "in_place"
    assert config.zo.zo_directions == 1


def test_roberta_settings_stay_as_published():
    """MeZO, Table 15: 100,000 steps of batch 64, eps 1e-3, rates 1e-7 to 1e-5, 16 examples a label."""
    config = load_config(["recipe=roberta-large-sst2-k16"], {})
    assert config.training["max_steps"] == 100000 and config.training["per_device_train_batch_size"] == 64
    assert config.training["learning_rate"] in (1e-7, 1e-6, 1e-5) and config.zo.zo_eps == 1e-3
    assert config.run.examples_per_label == 16 and config.run.num_train is None


def test_zofts_own_run_differs_from_the_published_one_in_the_step_and_the_dtype():
    published, own = (load_config([f"recipe={name}"], {}) for name in ("opt-13b-sst2", "opt-13b-sst2-zoft"))
    assert (published.run.dtype, own.run.dtype) == ("float32", "bfloat16"), "zoft keeps what 16 bits would lose"
    assert replace(own.run, dtype="float32") == published.run and own.training == published.training
    changed = {key for key, value in vars(own.zo).items() if value != getattr(published.zo, key)}
    assert changed == {"zo_distribution", "zo_eps", "perturbation", "weight_rounding", "stability", "guard"}
    assert own.zo == type(own.zo)(), "zoft's defaults"


def test_best_checkpoints_can_be_kept():
    """Trainer wants evaluation and saving on one beat when it loads the best checkpoint at the end."""
    for name in names_in(RECIPES):
        training = load_config([f"recipe={name}"], {}).training
        if training.get("load_best_model_at_end"):
            assert training["eval_strategy"] == training["save_strategy"] == "steps"
            assert training["save_steps"] % training["eval_steps"] == 0


def test_a_base_that_is_no_run_is_not_listed():
    assert "mezo" not in names_in(RECIPES)
    assert read_recipe(str(RECIPES / "base/mezo.yaml")).settings()["zo_eps"] == 1e-3
