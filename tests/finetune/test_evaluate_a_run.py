"""`zoft evaluate model=RUN`: the run's own examples and prompt, and what is said where they are not."""

import json
import shutil

import pytest

from zoft.cli import main
from zoft.config import RunSettings
from zoft.finetune.earlier_run import _origin
from zoft.tasks import TASKS

WORDS = ("dull", "bright")


@pytest.fixture
def own_file(tmp_path):
    """Reviews of one's own, 60 rows; the texts differ in length."""
    rows = [
        {"text": "the film was " + "a " * (index % 7) + WORDS[index % 2], "stars": str(index % 2)}
        for index in range(60)
    ]
    path = tmp_path / "reviews.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture
def run(tiny_folder, own_file, tmp_path):
    """A run on them whose data, split and prompt are none of the defaults."""
    out = tmp_path / "run"
    settings = {
        "model": tiny_folder("opt"), "template": "{text} It was", "label_words": "{0: bad, 1: good}", "label_column": "stars",
        "train_file": own_file, "num_train": 30, "num_dev": 12, "num_test": 18, "split_seed": 5, "max_length": 11,
        "max_steps": 3, "learning_rate": 1e-2, "use_cpu": "true", "save_strategy": "steps", "save_steps": 3,
        "output_dir": out,
    }  # fmt: skip
    assert main(["finetune", *(f"{name}={value}" for name, value in settings.items())]) == 0
    return out


@pytest.fixture
def asked(tmp_path, capsys):
    """`asked(key=value)`: what `zoft evaluate` writes and prints."""

    def numbers(**settings):
        capsys.readouterr()
        words = [f"{name}={value}" for name, value in settings.items()]
        assert main(["evaluate", *words, f"output={tmp_path / 'numbers.json'}"]) == 0
        return json.loads((tmp_path / "numbers.json").read_text()), capsys.readouterr().out

    return numbers


def test_a_run_alone_is_asked_as_it_asked_itself(run, asked):
    said = json.loads((run / "summary.json").read_text())
    for folder in (run, run / "checkpoint-3"):
        values, out = asked(model=folder)
        assert (values["accuracy"], values["n"]) == (said["after"], 18) and "trained_on" not in values
        (line,) = [line for line in out.splitlines() if line.startswith("as the run in ")]
        told = (
            "num_train=30",
            "split_seed=5",
            "max_length=11",
            "template={text} It was",
            "label_words={0: bad, 1: good}",
        )
        assert all(word in line for word in told) and "warning" not in out
        assert values["settings"]["split_seed"] == 5 and values["settings"]["model"] == str(folder)


def test_what_is_written_wins(run, asked, own_file):
    values, out = asked(model=run, num_test=6, max_length=20)
    assert values["n"] == 6 and "max_length" not in out.splitlines()[0] and "num_train=30" in out.splitlines()[0]
    assert "warning" not in out  # a shorter part of the run's own test split
    whole, _ = asked(model=run, split="dev")
    assert whole["n"] == 12


def test_one_label_word_replaces_the_runs(run, asked):
    values, _ = asked(model=run, **{"label_words.0": "awful"})
    assert values["settings"]["label_words"] == {"0": "awful", "1": "good"}


@pytest.mark.parametrize("settings", [{"split_seed": 0}, {"num_train": 12}, {"num_train": 12, "split": "dev"}])
def test_rows_that_the_run_trained_on_are_counted(run, asked, own_file, settings):
    values, out = asked(model=run, train_file=own_file, **settings)
    (line,) = [line for line in out.splitlines() if line.startswith("warning: ")]
    part = "dev" if settings.get("split") else "test"
    name, value = next(iter(settings.items()))
    assert (
        f"{values['trained_on']} of the {values['n']} {part} examples are rows of reviews.jsonl that the run in" in line
    )
    assert f"{name}={value} and not {5 if name == 'split_seed' else 30}" in line
    if name == "num_train":  # rows 12 to 29 of the run's order were trained on: dev takes 12 of them, test the 6 after
        assert values["trained_on"] == (12 if part == "dev" else 6)


def test_a_test_file_that_is_the_run_s_train_file_is_no_test(run, asked, own_file, tmp_path):
    values, _ = asked(model=run, test_file=own_file, num_test="none")
    assert values["trained_on"] == 30 and values["n"] == 60
    other = tmp_path / "other.jsonl"
    shutil.copy(own_file, other)
    values, out = asked(model=run, test_file=other, num_test="none")  # another file, whatever it holds
    assert "trained_on" not in values and values["n"] == 60 and "warning" not in out


def test_a_moved_file_is_known_by_its_name(run, asked, own_file, tmp_path, capsys):
    moved = tmp_path / "elsewhere/reviews.jsonl"
    moved.parent.mkdir()
    own_file.rename(moved)
    assert main(["evaluate", f"model={run}"]) == 2
    error = capsys.readouterr().err
    assert "settings.json: train_file: " in error and "does not exist" in error
    values, out = asked(model=run, train_file=moved)
    assert values["n"] == 18 and "warning" not in out
    values, out = asked(model=run, train_file=moved, num_train=12)
    assert values["trained_on"] == 6


def test_a_split_that_cannot_be_drawn_again_is_warned_of(run, asked, own_file):
    said = json.loads((run / "settings.json").read_text())
    (run / "settings.json").write_text(json.dumps({**said, "validation_file": "/gone/dev.jsonl"}))
    values, out = asked(model=run, validation_file="none")
    assert values["n"] == 18 and "trained_on" not in values
    assert (
        "warning: test examples may be among those that the run in" in out and "/gone/dev.jsonl does not exist" in out
    )


def test_another_task_takes_nothing_of_the_runs_data(run, asked, data_file):
    values, out = asked(model=run, task="sst2", train_file=data_file("sst2", 60), num_train=20, num_dev=10, num_test=16)
    assert values["task"] == "sst2" and "as the run in" not in out and "label_column" not in values["settings"]


def test_the_runs_prompt_goes_with_a_target_column(run, asked):
    values, out = asked(model=run, target_column="stars", num_test=4, max_length=60, max_new_tokens=2)
    assert "label_words" not in out.splitlines()[0] and values["settings"]["target_column"] == "stars"


def test_a_model_without_task_says_so(tiny_folder, capsys):
    assert main(["evaluate", f"model={tiny_folder('opt')}"]) == 2
    assert capsys.readouterr().err.startswith("zoft: no task was given: name one, as task=sst2")


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_an_adapter_is_asked_over_its_base_as_the_run_loaded_it(tiny_folder, data_file, asked, tmp_path, quantization):
    if quantization != "none":
        pytest.importorskip("bitsandbytes")
    out = tmp_path / "lora"
    settings = {
        "model": tiny_folder("opt"), "task": "sst2", "train_file": data_file("sst2", 60), "num_train": 20, "num_dev": 10,
        "num_test": 16, "tuning": "lora", "dtype": "bfloat16", "quantization": quantization,
        "max_steps": 2, "learning_rate": 1e-2, "use_cpu": "true", "save_strategy": "no", "output_dir": out,
    }  # fmt: skip
    assert main(["finetune", *(f"{name}={value}" for name, value in settings.items())]) == 0
    values, line = asked(model=out)
    assert "dtype=bfloat16" in line and ("tuning=lora, quantization=nf4" in line) == (quantization == "nf4")
    assert values["accuracy"] == json.loads((out / "summary.json").read_text())["after"]
    if quantization != "none":
        plain, _ = asked(model=out, quantization="none")
        assert plain["loss"] != values["loss"]


def test_where_a_split_is_from():
    """dev of a task on the Hub is cut from what is trained on, test is not."""
    sst2, run = TASKS["sst2"], RunSettings(task="sst2")
    train, dev, test = (_origin(run, sst2, split) for split in ("train", "dev", "test"))
    assert train == dev != test


def test_the_notes_on_the_data_are_printed(run, asked, tiny_folder, own_file, capsys):
    _, out = asked(model=run, seeds="0,1")
    assert out.count("test texts (") == 1 and "were shortened, from the left of their passage, to 11 tokens" in out
    _, out = asked(model=run, num_train=1000, num_dev=10, num_test=10)
    assert "has 60 rows, fewer than asked for" in out
    words = [
        f"model={tiny_folder('opt')}", "template={text} It was", "label_words={0: bad, 1: good}", "label_column=stars",
        f"train_file={own_file}", "num_train=1000", "num_dev=5", "num_test=10", "max_length=11", "stability_probes=4",
        "per_device_train_batch_size=4",
    ]  # fmt: skip
    assert main(["probe", *words]) == 0
    out = capsys.readouterr().out
    assert "has 60 rows, fewer than asked for" in out and "training texts (" in out and "to 11 tokens" in out
