"""The run that made a model: `zoft evaluate model=RUN` asks as it asked, of the examples that it held out.

A run's folder holds its settings (`settings.json`); those of data, split and prompt are the defaults of an evaluation of
its weights, or of a checkpoint's below it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoft.config import RunConfig, RunSettings, load_config
from zoft.config.recipes import Layer, shown
from zoft.errors import UsageError
from zoft.finetune.asked_task import WORLDS
from zoft.tasks import resolve

if TYPE_CHECKING:
    from zoft.finetune.materials import Materials
    from zoft.tasks import Task

FILES = ("train_file", "validation_file", "test_file")
SPLIT = ("num_train", "num_dev", "num_test", "examples_per_label", "split_seed")
PROMPT = (
    "template", "label_words", "label_column", "target_column", "max_new_tokens", "max_length", "objective", "reward",
)  # fmt: skip
DATA = ("task", *FILES, *SPLIT, *PROMPT)
ADAPTER = ("tuning", "quantization")  # how a quantised base under an adapter is loaded


@dataclass(frozen=True)
class EarlierRun:
    """A run by what its folder says of it."""

    file: Path  # its settings.json
    settings: Mapping[str, Any]  # those of an evaluation

    @property
    def source(self) -> str:
        return shown(self.file)

    def defaults(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of the run that hold beside `given`: none of its data under another task, none of its other files
        under another train_file, no label words beside a target column.
        """
        gone = {name for name in given if name != "label_words"}  # of which one entry alone may be given
        if "task" in given and _named(given["task"]) != _named(self.settings.get("task")):
            gone.update(DATA)
        if "train_file" in given and not _same(given["train_file"], self.settings.get("train_file")):
            gone.update(FILES)
        if given.get("target_column") is not None:
            gone.update(("label_words", "label_column"))
        if given.get("label_words") is not None:
            gone.add("target_column")
        return {name: value for name, value in self.settings.items() if name not in gone}

    def told(self, config: RunConfig) -> str:
        """A line that says which settings of the run an evaluation took; empty where it took none."""
        taken = [
            f"{name}={_text(value)}" for name, value in self.settings.items() if config.sources.get(name) == self.source
        ]
        return f"as the run in {shown(self.file.parent)}: {', '.join(taken)}" if taken else ""

    def run(self, scored: RunSettings) -> RunSettings:
        """The run's data and split; a file that is not where the run found it is the one of that name in `scored`.

        Raises:
            UsageError: a file is not there.
        """
        own = {name: value for name, value in self.settings.items() if name in DATA}
        for name in FILES:
            file = own.get(name)
            if file is not None and not Path(file).is_file():
                there = [getattr(scored, other) for other in FILES]
                own[name] = next((other for other in there if other is not None and _same(other, file)), file)
        return RunSettings(**own)


def earlier_run(model: str | None) -> EarlierRun | None:
    """The run whose folder, or whose checkpoint's, `model` is; None: it is none, or holds no settings."""
    if model is None or model in WORLDS:
        return None
    folder = Path(model).expanduser()
    places = [folder, folder.resolve().parent] if re.fullmatch(r"checkpoint-\d+", folder.name) else [folder]
    for file in (place / "settings.json" for place in places):
        try:
            said = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(said, dict) and "model" in said:  # a packed log's settings name none
            over = (folder / "adapter_config.json").is_file() and said.get("quantization", "none") != "none"
            kept = {name: said[name] for name in (*DATA, "dtype", *(ADAPTER if over else ())) if name in said}
            if ":" in str(kept.get("reward")):  # a user's function, which may not be there: given, it is scored
                del kept["reward"]
            return EarlierRun(file, kept)
    return None


def evaluation_config(argv: Sequence[str]) -> tuple[RunConfig, EarlierRun | None]:
    """The configuration of an evaluation, and the run that made its model.

    Raises:
        UsageError: as `load_config`.
    """
    found: list[EarlierRun | None] = []

    def below(given: Mapping[str, Any]) -> Layer | None:
        run = earlier_run(given.get("model"))
        found.append(run)
        return None if run is None else Layer(run.source, run.defaults(given))

    return load_config(argv, below=below), found[0]


def trained_on(earlier: EarlierRun, scored: RunSettings, materials: Materials, split: str) -> tuple[int, str]:
    """How many examples of `split` are rows that the run trained on, and a warning (empty: there is nothing to say).

    Where the split is the run's there are none. Where it is another of the same data, both are drawn and compared; 0 and a
    warning where the run's cannot be drawn again.
    """
    from zoft.finetune.materials import task_and_splits

    if scored.task in WORLDS or earlier.settings.get("task") in WORLDS:
        return 0, ""
    held, folder = _origin(scored, materials.task, split), shown(earlier.file.parent)
    unknown = f"warning: {split} examples may be among those that the run in {folder} trained on: "
    try:
        run = earlier.run(scored)
        task = resolve(run.task, run.template, run.label_words, run.label_column, run.target_column)
        if _origin(run, task, "train") != held:
            return 0, ""
        other = [name for name in (*FILES, *SPLIT) if not _equal(name, getattr(scored, name), getattr(run, name))]
        if not other and _named(scored.task) == _named(run.task):
            return 0, ""
        kind = materials.collator.architecture
        rows = {example.row for example in task_and_splits(run, kind, materials.tokenizer)[1].train}
    except UsageError as error:
        own = earlier.settings.get("train_file")
        return 0, f"{unknown}{error}" if own and Path(own).name == Path(held[0]).name else ""
    drawn = task_and_splits(scored, kind, materials.tokenizer)[1]
    part = drawn.test if split == "test" else drawn.dev
    seen = sum(example.row in rows for example in part)
    if not seen:
        return 0, ""
    changes = ", ".join(f"{name}={_text(getattr(scored, name))} and not {_text(getattr(run, name))}" for name in other)
    return seen, (
        f"warning: {seen} of the {len(part)} {split} examples are rows of {Path(held[0]).name} that the run in {folder} "
        f"trained on{f' ({changes})' if changes else ''}: the score is not one on new data. Leave these settings out for the "
        "run's own split"
    )


def _origin(run: RunSettings, task: Task, split: str) -> tuple[str, ...]:
    """What `load_splits` takes the examples of `split` from: a file, or a part of the task's data on the Hub."""
    file = run.train_file
    if split == "test":
        file = run.test_file or run.validation_file or run.train_file
    elif split == "dev" and run.validation_file and run.test_file:
        file = run.validation_file
    if file is not None:
        return (str(Path(file).resolve()),)
    hub = task.hub
    return (task.name,) if hub is None else (repr(hub), (hub.test or hub.validation) if split == "test" else hub.train)


def _equal(name: str, one: Any, other: Any) -> bool:
    return _same(one, other) if name in FILES else one == other


def _same(file: str | None, own: str | None) -> bool:
    """Whether `file` is the run's `own`; where that is not there any more, or not from here, its name decides."""
    if file is None or own is None:
        return file is own
    return Path(file).resolve() == Path(own).resolve() or (
        not Path(own).is_file() and Path(file).name == Path(own).name
    )


def _named(task: str | None) -> str:
    return task or "custom"


def _text(value: Any) -> str:
    """A value on one line.

    >>> _text(None), _text("a\\nb"), _text({"0": "bad"})
    ('none', 'a\\\\nb', '{0: bad}')
    """
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_text(word)}" for key, word in value.items()) + "}"
    return "none" if value is None else str(value).replace("\n", "\\n")
