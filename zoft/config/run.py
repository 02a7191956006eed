"""What a run is about, apart from how it is trained: model, data, prompt, tuning scheme, clock, where it is kept.

The training settings belong to `transformers.TrainingArguments`, the zeroth-order ones to `zoft.trainer.settings`.
Nothing here imports torch or Transformers: a wrong setting must be found before either is loaded.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from zoft.errors import UsageError
from zoft.streaming.settings import check_streaming
from zoft.tuning.settings import TuningSettings

UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "": 1.0}
FIRST_ORDER = ("adamw", "lora-adamw")  # methods that take gradients
DATA_FORMATS = (".json", ".jsonl", ".csv", ".tsv", ".txt", ".parquet")  # and each of the first five with .gz


def seconds(duration: str | float) -> float:
    """A duration in seconds: a number, or numbers with d, h, m, s. Raises UsageError on anything else.

    >>> seconds("2h"), seconds("1h30m"), seconds("90s"), seconds(90), seconds("0.5h")
    (7200.0, 5400.0, 90.0, 90.0, 1800.0)
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([dhms]?)", str(duration))
    if re.sub(r"\s", "", str(duration)) != "".join(number + unit for number, unit in parts) or not parts:
        raise UsageError(f"max_time must be a duration such as 2h, 1h30m or 90s, but {duration!r} was given")
    total = sum(float(number) * UNITS[unit] for number, unit in parts)
    if total <= 0:
        raise UsageError(f"max_time must be longer than nothing, but {duration!r} was given; leave it out for no limit")
    return total


@dataclass(frozen=True)
class RunSettings(TuningSettings):
    """Every setting of a run that neither Transformers nor the zeroth-order step owns."""

    model: str | None = None  # folder, or name on the Hub
    tokenizer: str | None = None  # folder or name; None: the model's own
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # of the weights; auto: as they were saved
    pooling: Literal["model", "mean"] = "model"  # what a new classification head reads: the model's own, or the mean
    task: str | None = None  # name of a task; None: one described by template and label_words
    train_file: str | None = None  # data: json, jsonl, csv, tsv, txt or parquet; None: the task's data from the Hub
    validation_file: str | None = None  # the test split is drawn from this (MeZO's rule); with test_file: the dev split
    test_file: str | None = None  # the test split; None: drawn from validation_file or train_file
    template: str | None = None  # prompt with {column} for each column that it uses
    label_words: dict[str, str] | None = field(default=None)  # label as it stands in the data -> word the model says
    label_column: str | None = None  # column with the label; None: the task's own
    target_column: str | None = None  # column with the answer in words, in place of label words
    max_new_tokens: int | None = None  # most tokens of a generated answer; None: the task's own
    num_train: int | None = 1000  # training examples; none: all there are. MeZO's split is 1000 / 500 / 1000
    num_dev: "int | Literal['auto'] | None" = "auto"  # dev examples; auto: the task's own, 500, but 100 of CB and COPA
    num_test: int | None = 1000  # test examples; none: all there are
    examples_per_label: int | None = None  # k-shot: this many of each label for training, and as many for dev
    split_seed: int = 0  # which examples are drawn; `seed` and `data_seed` are Transformers' own
    max_length: int | None = None  # most tokens of prompt and answer; None: what the model can read
    # what a step lowers; task: the task's own
    objective: Literal["task", "candidate_likelihood", "language_modelling"] = "task"
    reward: str | None = None  # what training raises instead: a metric, arithmetic, or a function module:function
    reward_temperature: float = 0.0  # at which free answers are drawn for a reward; 0: the most likely tokens
    # zo, or for comparison MeZO's procedure (mezo) or gradients (adamw, lora-adamw)
    method: Literal["zo", "mezo", "adamw", "lora-adamw"] = "zo"
    seeds: list[int] | None = None  # one run for each, one after another; None: one run, by `seed`
    max_time: str | float | None = None  # seconds, or such as 2h; the run stops by the clock; None: it does not
    fsdp_size: int | None = None  # processes among which every weight is cut, to be gathered where it is used (FSDP2)
    tp_size: int | None = None  # processes that divide every large product among them (tensor parallelism)
    memory_budget: str | None = None  # such as 8GB: blocks that do not fit live outside the device; None: all is on it
    # where they live: memory, disk or a folder; auto: memory of a GPU's machine, disk for a CPU
    stream_to: str = "auto"
    runs_dir: str = "runs"  # each run makes a new folder in here, unless output_dir names one
    overwrite: bool = False  # whether output_dir may hold an earlier run

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_counts()
        check_streaming(self.memory_budget, self.stream_to)
        if self.max_time is not None:
            seconds(self.max_time)
        if self.label_words is not None:
            object.__setattr__(self, "label_words", checked_label_words(self.label_words))
        answered = self.label_words is not None or self.target_column is not None
        if self.task is None and (self.template is None) == answered:
            missing = "template" if answered else "label_words"
            raise UsageError(f"a classification of your own needs template and label_words; {missing} is missing")
        for name in ("train_file", "validation_file", "test_file"):
            check_data_file(name, getattr(self, name))
        if self.seeds is not None and (not self.seeds or min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds)):
            raise UsageError(f"seeds must be different whole numbers from 0 on, but {self.seeds} was given")
        self._check_reward()
        if self.tuning == "scales" and self.method in FIRST_ORDER:
            raise UsageError(
                f"tuning=scales: no gradient passes through quantised weights, which method={self.method} needs; use method=zo "
                "or mezo, or method=lora-adamw"
            )
        self._check_sharding()
        if self.model is not None:
            check_model(self.model)

    def _check_counts(self) -> None:
        for name, least in {
            "num_train": 1, "num_dev": 0, "num_test": 0, "examples_per_label": 1, "max_length": 1, "split_seed": 0,
            "max_new_tokens": 1, "fsdp_size": 1, "tp_size": 1,
        }.items():  # fmt: skip
            value = getattr(self, name)
            if isinstance(value, int) and value < least:
                raise UsageError(f"{name} must be at least {least}, but {value} was given")

    def _check_reward(self) -> None:
        if not (self.reward_temperature >= 0 and self.reward_temperature < float("inf")):
            raise UsageError(f"reward_temperature must be a number >= 0, but {self.reward_temperature} was given")
        if self.reward is None:
            if self.reward_temperature:
                raise UsageError(
                    "reward_temperature draws the answers that a reward scores; set reward, or leave it out"
                )
            return
        if self.method in FIRST_ORDER:
            raise UsageError(
                f"reward={self.reward} has no gradient, which method={self.method} needs; use method=zo or mezo"
            )
        if self.store_features:
            raise UsageError(
                f"reward={self.reward}: store_features=true keeps what the likelihood's head reads; use store_features=false"
            )

    def _check_sharding(self) -> None:
        given = {name: size for name in ("fsdp_size", "tp_size") if (size := getattr(self, name)) is not None}
        if not given:
            return
        (name, size), *more = given.items()
        if more:
            raise UsageError("fsdp_size and tp_size each cut every weight once; set one of them")
        for other, usual in (
            ("method", ("zo",)),
            ("tuning", ("full", "head", "last_k", "bias")),
            ("quantization", ("none",)),
        ):
            if getattr(self, other) not in usual:
                raise UsageError(
                    f"{name}={size}: a model that is cut among processes is trained with {other}={' or '.join(usual)} only, "
                    f"but {other}={getattr(self, other)} was given"
                )

    @property
    def sharding(self) -> dict[str, int]:
        """Arguments of Transformers' DistributedConfig; empty: every process holds the whole model."""
        return {name: size for name in ("fsdp_size", "tp_size") if (size := getattr(self, name)) not in (None, 1)}

    @property
    def max_seconds(self) -> float | None:
        """The wall-clock limit in seconds."""
        return None if self.max_time is None else seconds(self.max_time)


@dataclass(frozen=True)
class RecipeNotes:
    """What a recipe says about itself. A derived recipe does not inherit these: they hold for one run only."""

    description: str = ""
    needs: str = ""  # memory and time
    expect: str = ""  # the number it should reach
    source: str = ""  # where that number comes from


def checked_label_words(words: dict) -> dict[str, str]:
    """Label words with the labels as text. UsageError for YAML's unquoted Yes and No, and for fewer than two words."""
    for label, word in words.items():
        if not isinstance(word, str) or isinstance(label, bool):
            raise UsageError(
                f"label_words: expected text for label {label!r}, but {word!r} was given; YAML reads an unquoted "
                'Yes or No as true or false, so write "Yes" and "No" in quotes'
            )
        if not word.strip():
            raise UsageError(f"label_words: the word of label {label!r} is empty; give the word the model should say")
    if len(words) < 2 or len(set(words.values())) < len(words):
        raise UsageError(f"label_words needs a different word for each of at least two labels, but {words} was given")
    return {str(label): word for label, word in words.items()}


def check_data_file(name: str, file: str | None) -> None:
    """UsageError unless `file` is None or an existing file in a format that can be read."""
    if file is None:
        return
    path = Path(file)
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise UsageError(f"{name}: {file} {what}; relative paths start at {Path.cwd()}")
    if Path(path.name.removesuffix(".gz")).suffix.lower() not in DATA_FORMATS:
        raise UsageError(f"{name}: {file} ends in {path.suffix or 'nothing'}; expected {', '.join(DATA_FORMATS)}")


def check_model(model: str) -> None:
    """UsageError when `model` is written as a path and there is no such folder. The Hub checks its names itself."""
    written_as_path = model.startswith((".", "/", "~")) or model.count("/") > 1 or "\\" in model
    path = Path(model).expanduser()
    if written_as_path and not path.is_dir():
        raise UsageError(f"model: the folder {model} does not exist; relative paths start at {Path.cwd()}")
    held = ("config.json", "adapter_config.json", "trajectory.zoft")
    if path.is_dir() and not any((path / file).is_file() for file in held):
        raise UsageError(f"model: the folder {model} holds no config.json; give a folder written by save_pretrained")
