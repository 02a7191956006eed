"""The recipe book: every cell loads, resolves its task, says what it needs; published settings stay as published."""

import re
from dataclasses import asdict

import pytest

from zoft.cli import main
from zoft.config import load_config, packaged_folder, read_recipe
from zoft.config.book import book_names, cell_of
from zoft.config.book.models import MODELS
from zoft.config.book.published import TASKS
from zoft.config.listing import memory, step_bytes
from zoft.config.recipes import names_in
from zoft.errors import UsageError

MEZO = {"full": (1e-6, 1e-3), "lora": (1e-4, 1e-2), "prefix": (1e-2, 1e-1)}


def test_every_recipe_of_the_book_loads_and_says_its_plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(book_names()) == len(set(book_names())) > 250
    for name in book_names():
        config, cell = load_config([f"recipe={name}"], {}), cell_of(name)
        assert cell is not None and config.run.task == cell.task and config.run.tuning == cell.row.tuning
        assert f"task={cell.task}" in config.explain()
        assert all(asdict(config.notes).values()), f"{name} leaves a note empty"


def test_every_task_of_the_book_is_resolved():
    from zoft.tasks.table import TASKS as known

    wanted = {cell_of(name).task for name in book_names()}  # type: ignore[union-attr]
    assert not wanted - known.keys()


def test_all_cells_of_mezos_first_table_are_there():
    for tuning, (rate, eps) in MEZO.items():
        suffix = "" if tuning == "full" else f"-{tuning}"
        for task in TASKS:
            config = load_config([f"recipe=opt-13b-{task}{suffix}"], {})
            assert config.training["learning_rate"] == (1e-7 if (task, tuning) == ("wsc", "full") else rate)
            assert config.zo.zo_eps == eps and config.training["max_steps"] == 20000
            assert config.zo.zo_distribution == "gaussian" and config.zo.perturbation == "in_place"
            assert config.run.num_dev == "auto"
            own = load_config([f"recipe=opt-13b-{task}{suffix}-zoft"], {})
            assert own.training == config.training and own.zo.zo_distribution == "rademacher"


def test_a_target_is_published_or_said_not_to_be():
    for name in book_names():
        cell, notes = cell_of(name), read_recipe(name).notes
        assert cell is not None and notes.expect.startswith("none published") == (cell.target is None)
    assert (
        "91.4 %" in read_recipe("opt-13b-sst2").notes.expect
        and "83.8 %" in read_recipe("opt-13b-squad-lora").notes.expect
    )
    assert "failed" in read_recipe("opt-66b-squad").notes.expect
    assert not any("qwen3" in name and name.endswith("zoft") for name in book_names())


@pytest.mark.parametrize("name", sorted(set(names_in(packaged_folder("recipes"))) & set(book_names())))
def test_a_file_says_what_the_book_says(name):
    """A file of one's own may say more in its notes, and nothing else in its settings."""
    cell = cell_of(name)
    assert cell is not None
    base = read_recipe(str(packaged_folder("recipes") / "base/mezo.yaml")).settings()
    assert {"tuning": "full", **read_recipe(name).settings()} == {**base, **cell.settings()}


def test_memory_chooses(capsys):
    assert memory("24GB") == 24e9 and memory("1.5tb") == 1.5e12
    assert main(["recipes", "--model", "opt-13b", "--task", "rte", "--fits", "30GB"]) == 0
    out = capsys.readouterr().out
    names = {name for name in book_names() if re.search(rf"^{name}(?=\s|facebook)", out, re.MULTILINE)}
    beside = {f"opt-13b-rte-{kind}" for kind in ("lora", "prefix", "zoft", "lora-zoft", "prefix-zoft")}
    assert names == beside, "and not opt-13b-rte: 52 GB in float32"
    assert "downloads" in out and "facebook/opt-13b, about 25.7 GB" in out
    assert 51e9 < step_bytes(read_recipe("opt-13b-sst2")) < 54e9  # type: ignore[operator]
    assert main(["recipes", "opt-66b-squad-prefix"]) == 0
    assert "virtual_tokens: 5" in capsys.readouterr().out


def test_sizes_follow_from_the_configurations():
    """OPT and Llama's weights counted from their shapes (biases and norms of the blocks included)."""
    for name, layers, hidden in (("opt-13b", 40, 5120), ("opt-30b", 48, 7168), ("opt-66b", 64, 9216)):
        count = layers * (12 * hidden**2 + 13 * hidden) + (50272 + 2050 + 2) * hidden
        assert count == pytest.approx(MODELS[name].parameters, rel=2e-3)
    for name, layers, keys in (("llama-2-7b", 32, 4096), ("llama-3-8b", 32, 1024), ("mistral-7b", 32, 1024)):
        model = MODELS[name]
        block = 2 * model.hidden**2 + 2 * model.hidden * keys + 3 * model.hidden * model.inner + 2 * model.hidden
        count = layers * block + (2 * model.vocabulary + 1) * model.hidden
        assert count == pytest.approx(model.parameters, rel=2e-3)


@pytest.mark.parametrize("words", [["--fits", "lots"], ["--colour", "red"], ["--model"], ["--model", "no-such-model"]])
def test_filters_that_cannot_be_read_are_named(words):
    from zoft.config.listing import recipes

    with pytest.raises(UsageError, match=r"24GB|no recipe matches"):
        recipes(words)
