"""The recipe book: every cell loads, resolves its task, says what it needs; published settings stay as published."""

import re
from dataclasses import asdict

import pytest

from zoft.cli import main
from zoft.config import all_recipes, load_config, packaged_folder, read_recipe
from zoft.config.book import book_names, cell_of
from zoft.config.book.models import MODELS
from zoft.config.book.published import TASKS
from zoft.config.listing import WORLDS, step_bytes, to_download
from zoft.config.recipes import names_in
from zoft.errors import UsageError
from zoft.limits import size_in_bytes

MEZO = {"full": (1e-6, 1e-3), "lora": (1e-4, 1e-2), "prefix": (1e-2, 1e-1)}


def test_every_recipe_of_the_book_loads_and_says_its_plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(book_names()) == len(set(book_names())) > 250
    for name in book_names():
        config, cell = load_config([f"recipe={name}"], {}), cell_of(name)
        assert cell is not None and config.run.task == cell.task and config.run.tuning == cell.row.tuning
        assert f"task={cell.task}" in config.explain()
        assert all(asdict(config.notes).values()), f"{name} leaves a note empty"


def test_every_task_of_the_book_is_resolved_for_its_model():
    """By name, and with a prompt and a way to score answers for the kind of model that the book pairs it with."""
    from zoft.tasks import resolve

    wanted = {(cell_of(name).task, cell_of(name).row.model) for name in book_names()}  # type: ignore[union-attr]
    for task, model in sorted(wanted):
        found = resolve(task).prompted_for("masked" if model.startswith("roberta") else "causal")
        assert found.name == task and found.objective and found.hub is not None and found.metrics


def test_every_recipe_prints_its_plan(capsys):
    """Files and book alike: what it needs, what it should reach, what it downloads, every setting."""
    for recipe in all_recipes(book=True):
        assert main(["recipes", recipe.name]) == 0
        out = " ".join(capsys.readouterr().out.split())
        settings = recipe.settings()
        assert all(word in out for word in (recipe.name, " needs ", " reaches ", " source "))
        assert all(f"{key}: {' '.join(str(value).split())}" in out for key, value in settings.items())
        offline = settings["task"] == "eos" or settings["model"] in WORLDS
        assert (" downloads " in out) != offline and (offline or f"downloads {settings['model']}, " in out)


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
    assert size_in_bytes("fits", "24GB") == 24e9 and size_in_bytes("fits", "1.5tb") == 1.5e12
    assert [size_in_bytes("fits", text) for text in ("8G", "500M", "64 k", "1T")] == [8e9, 5e8, 64e3, 1e12]
    assert size_in_bytes("fits", "8GiB") == size_in_bytes("fits", "8gi") == 8 * 2**30
    assert main(["recipes", "--model", "opt-13b", "--task", "rte", "--fits", "30GB"]) == 0
    out = capsys.readouterr().out
    names = {name for name in book_names() if re.search(rf"^{name}(?=\s|facebook)", out, re.MULTILINE)}
    beside = {f"opt-13b-rte-{kind}" for kind in ("lora", "prefix", "zoft", "lora-zoft", "prefix-zoft")}
    assert names == beside, "and not opt-13b-rte: 52 GB in float32"
    assert "downloads" in out and "facebook/opt-13b, about 25.7 GB" in out
    assert 51e9 < step_bytes(read_recipe("opt-13b-sst2")) < 54e9  # type: ignore[operator]
    assert main(["recipes", "opt-66b-squad-prefix"]) == 0
    assert "virtual_tokens: 5" in capsys.readouterr().out


def test_what_is_downloaded_is_what_is_not_here(tmp_path, monkeypatch):
    assert to_download("facebook/opt-13b") == "facebook/opt-13b, about 25.7 GB of weights, once"
    assert to_download("somebody/some-model") == "somebody/some-model, once"
    assert not any(map(to_download, (None, "quickstart", str(tmp_path), "no name of the Hub")))
    import huggingface_hub

    cached = {
        ("facebook/opt-13b", "pytorch_model.bin.index.json"): "/cache/file",
        ("facebook/opt-30b", "config.json"): "/cache/c",
    }
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda name, file: cached.get((name, file)))
    assert to_download("facebook/opt-13b") == ""
    assert "59.9 GB" in to_download("facebook/opt-30b"), "a configuration is no model"


def test_sizes_follow_from_the_configurations():
    """OPT and Llama's weights counted from their shapes (biases and norms of the blocks included)."""
    for name, layers, hidden in (("opt-13b", 40, 5120), ("opt-30b", 48, 7168), ("opt-66b", 64, 9216)):
        count = layers * (12 * hidden**2 + 13 * hidden) + (50272 + 2050 + 2) * hidden
        assert count == pytest.approx(MODELS[name].parameters, rel=2e-3)
    for name in ("llama-2-7b", "llama-3-8b", "mistral-7b", "qwen3-4b", "qwen3-8b"):
        sizes = MODELS[name].sizes
        assert sizes.tied == (name == "qwen3-4b")
        count = sizes.matrices + (1 if sizes.tied else 2) * sizes.head
        assert count == pytest.approx(sizes.parameters, rel=2e-3)


@pytest.mark.parametrize(
    ("part", "models"),
    [
        ("llama", {"Llama-2-7b-hf", "Meta-Llama-3-8B"}),
        ("LLAMA", {"Llama-2-7b-hf", "Meta-Llama-3-8B"}),
        ("llama3", {"Meta-Llama-3-8B"}),
        ("Llama 3", {"Meta-Llama-3-8B"}),
        ("opt_13b", {"opt-13b"}),
        ("opt-1.3b", {"opt-1.3b"}),
    ],
)
def test_models_are_found_by_a_part_of_their_name(part, models, capsys):
    assert main(["recipes", "--model", part]) == 0
    listed = re.findall(r"^\S+ +(\S+) on \S+$", capsys.readouterr().out, re.MULTILINE)
    assert {name.rpartition("/")[2] for name in listed} == models


@pytest.mark.parametrize("words", [["--fits", "lots"], ["--colour", "red"], ["--model"], ["--model", "no-such-model"]])
def test_filters_that_cannot_be_read_are_named(words):
    from zoft.config.listing import recipes

    with pytest.raises(UsageError, match=r"24GB|no recipe matches"):
        recipes(words)
