"""The settings of a run refuse what cannot work before anything is loaded."""

import pytest

from zoft.config.run import RunSettings, seconds
from zoft.errors import UsageError


@pytest.mark.parametrize(
    ("duration", "value"),
    [("2h", 7200), ("90s", 90), ("1d2h3m4s", 93784), ("1h 30m", 5400), (90, 90), ("1.5m", 90), ("0.5", 0.5)],
)
def test_durations(duration, value):
    assert seconds(duration) == value
    assert RunSettings(max_time=duration).max_seconds == value


@pytest.mark.parametrize("duration", ["soon", "2 hours", "-3s", "", "1e3", "0s", "h", "1:30"])
def test_what_is_no_duration(duration):
    with pytest.raises(UsageError, match="max_time must be"):
        RunSettings(max_time=duration)


def test_labels_are_text_whatever_yaml_made_of_them():
    assert RunSettings(template="{a}", label_words={0: "bad", 1: "good"}).label_words == {"0": "bad", "1": "good"}


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ({"0": True, "1": False}, 'write "Yes" and "No" in quotes'),
        ({"0": "same", "1": "same"}, "a different word"),
        ({"0": "alone"}, "at least two"),
        ({"0": " ", "1": "good"}, "is empty"),
        ({"0": 3, "1": "good"}, "expected text for label '0'"),
    ],
)
def test_label_words(words, part):
    with pytest.raises(UsageError, match=part):
        RunSettings(template="{a}", label_words=words)


def test_a_task_of_your_own_needs_template_and_words():
    with pytest.raises(UsageError, match="label_words is missing"):
        RunSettings(template="{text}")
    with pytest.raises(UsageError, match="template is missing"):
        RunSettings(label_words={"0": "bad", "1": "good"})
    assert RunSettings(task="sst2", label_words={"0": "bad", "1": "good"})  # a known task brings its template


def test_data_files(tmp_path):
    with pytest.raises(UsageError, match=r"train_file: .*missing\.csv does not exist"):
        RunSettings(train_file=str(tmp_path / "missing.csv"))
    with pytest.raises(UsageError, match="is a folder, not a file"):
        RunSettings(test_file=str(tmp_path))
    (tmp_path / "data.xlsx").touch()
    with pytest.raises(UsageError, match=r"ends in \.xlsx; expected \.json"):
        RunSettings(validation_file=str(tmp_path / "data.xlsx"))
    (tmp_path / "data.JSONL").touch()
    assert RunSettings(train_file=str(tmp_path / "data.JSONL"))


def test_model_folders(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        RunSettings(model=str(tmp_path / "missing"))
    with pytest.raises(UsageError, match="does not exist"):
        RunSettings(model="./missing")
    with pytest.raises(UsageError, match=r"holds no config\.json"):
        RunSettings(model=str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    assert RunSettings(model=str(tmp_path))
    assert RunSettings(model="facebook/opt-125m").model == "facebook/opt-125m"


@pytest.mark.parametrize("name", ["num_train", "num_dev", "num_test", "examples_per_label", "max_length", "lora_r"])
def test_counts_are_not_negative(name):
    with pytest.raises(UsageError, match=f"{name} must be at least"):
        RunSettings(**{name: -1})


def test_settings_are_frozen():
    with pytest.raises(AttributeError):
        RunSettings().task = "sst2"  # type: ignore[misc]
