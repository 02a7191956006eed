"""What a run works with: model, tokenizer and encoded examples, from the recipe's names and files."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from types import ModuleType
from typing import Any

from torch import nn

from zoft.config.listing import to_download
from zoft.config.run import RunSettings
from zoft.errors import UsageError
from zoft.finetune.asked_task import WORLDS, check_task
from zoft.generation import Greedy
from zoft.models import architecture_of, context_length, has_head, load_model, load_tokenizer
from zoft.objectives import Objective, objective
from zoft.pooling import add_mean_layer
from zoft.rewards import RewardObjective, Scoring
from zoft.rewards.table import find_reward
from zoft.tasks import Architecture, Example, Splits, Task, load_splits, resolve
from zoft.tasks.collate import Collator
from zoft.tasks.encoded import EncodedDataset
from zoft.tasks.prepare import encode_task
from zoft.tuning.settings import ADAPTERS
from zoft.tuning.table import apply_tuning

QUICKSTART = "quickstart"


@dataclass(frozen=True)
class Materials:
    """Everything between the recipe and the trainer."""

    model: nn.Module
    tokenizer: Any
    task: Task
    train: EncodedDataset
    dev: EncodedDataset
    test: EncodedDataset
    collator: Collator
    objective: Objective
    greedy: Greedy | None  # how answers are written, where they are free text
    scoring: Scoring | None  # of answers, where a reward is what training raises
    notes: tuple[str, ...]  # what a user should know about the data, in words
    own_start: bool = False  # training starts from more than the base model: an adapter, a new head, one of its own
    temperature: float = 0.0  # at which answers are drawn for a reward

    @cached_property
    def aim(self) -> Objective:
        """What zeroth-order training takes the losses of: the objective, or the reward.

        Raises:
            UsageError: the training set's answers cannot be scored.
        """
        if self.scoring is None:
            return self.objective
        writer = None if self.greedy is None else replace(self.greedy, temperature=self.temperature)
        return RewardObjective(self.scoring, self.objective, self.train.examples, writer)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics of an evaluation: the task's, after the reward's where that is one of them."""
        if self.scoring is None or self.scoring.reward is not None:
            return self.task.metrics
        return (self.scoring.name, *(name for name in self.task.metrics if name != self.scoring.name))


def gather_materials(run: RunSettings, tuned: bool = True) -> Materials:
    """Read the data, then load the model: bad data is found before gigabytes are read.

    Args:
        tuned: whether the model is made ready to be trained as `run.tuning` says.

    Raises:
        UsageError: a file, column, label or setting is wrong; the message names it.
    """
    assert run.model is not None, "load_config sees to it"
    folder = str(_of_world(run.model, "model").prepare()) if run.model in WORLDS else run.model
    with _download_said(run.model):
        architecture = architecture_of(folder)
    if run.reward is not None:
        find_reward(run.reward)  # a name that is not one is known before data and model are read
    with _download_said(run.tokenizer or run.model):
        tokenizer = load_tokenizer(run.tokenizer or folder, architecture)
    task, splits = task_and_splits(run, architecture, tokenizer)
    task = _aimed(task, run, architecture)
    if tuned and run.reward_temperature and not task.generates:
        raise UsageError(
            f"reward_temperature={run.reward_temperature:g} is that of written answers, and task {task.name} chooses among "
            "candidates; leave it out"
        )
    new_head = architecture == "classifier" and not has_head(folder)
    if run.pooling == "mean" and architecture != "classifier":
        raise UsageError(
            f"pooling=mean is for a classification head, but {folder} is a {architecture} model; leave it out"
        )
    if run.pooling == "mean" and new_head and tuned and run.tuning in ADAPTERS:
        raise UsageError(
            f"pooling=mean puts a layer on {folder}, without which the adapter of tuning={run.tuning} would be loaded"
            "; set pooling=model, or tuning=full, head, last_k or bias, whose folders hold the whole model"
        )
    with _download_said(run.model):
        model = load_model(
            folder,
            dtype=run.dtype,
            architecture=architecture,
            labels=len(task.labels),
            tokenizer=tokenizer,
            quantization=run.quantization,
            sharding=run.sharding,
        )
    if run.pooling == "mean" and new_head:
        model = add_mean_layer(model)
    tied = model.config.tie_word_embeddings
    model = apply_tuning(model, run, tokenizer) if tuned else model
    own_start = tuned and (hasattr(model, "peft_config") or new_head or model.config.tie_word_embeddings != tied)
    length = min(run.max_length or 1 << 30, context_length(model, tokenizer))

    def encoded(examples: tuple[Example, ...], training: bool = False) -> EncodedDataset:
        return encode_task(task, examples, tokenizer, length, architecture, training=training)

    train, dev, test = encoded(splits.train, training=True), encoded(splits.dev), encoded(splits.test)
    notes = [*splits.notes, *dict.fromkeys(train.notes)]
    for name, part in (("training", train), ("dev", dev), ("test", test)):
        if part.shortened:
            share = f"{part.shortened} of {len(part)} {name} texts ({part.shortened_share:.1%})"
            notes.append(f"{share} were shortened, from the left of their passage, to {length} tokens")
    widest = Collator.of(max((train, dev, test), key=lambda part: part.max_candidates), tokenizer, length)
    greedy = Greedy(tokenizer, task.max_new_tokens, task.stop) if task.generates else None
    aim = objective(task.objective)
    scoring = None if run.reward is None else Scoring.of(run.reward, task.generates)
    return Materials(
        model,
        tokenizer,
        task,
        train,
        dev,
        test,
        widest,
        aim,
        greedy,
        scoring,
        tuple(notes),
        own_start,
        run.reward_temperature,
    )


@contextmanager
def _download_said(name: str) -> Iterator[None]:
    """Where `name` cannot be had, without a network say, the error also says what the run would download."""
    try:
        yield
    except UsageError as error:
        wanted = to_download(name) if isinstance(error.__cause__, OSError) else ""
        if not wanted:
            raise
        raise UsageError(f"{error}; where the Hub can be reached, this run downloads {wanted}") from error


def task_and_splits(run: RunSettings, architecture: Architecture, tokenizer: Any) -> tuple[Task, Splits]:
    """The task as a model of this kind is asked it, and its examples.

    Raises:
        UsageError: as `resolve` and `load_splits`.
    """
    if run.task in WORLDS:
        check_task(run)
        world = _of_world(run.task, "task")
        task, examples = getattr(world, run.task.upper()), world.examples
        train, dev, test = (
            tuple(examples(name))[:number]
            for name, number in (("train", run.num_train), ("dev", _num_dev(run, task)), ("test", run.num_test))
        )
        return task, Splits(train, dev, test)
    task = resolve(run.task, run.template, run.label_words, run.label_column, run.target_column)
    task = task.prompted_for(architecture).worded_by(tokenizer)
    if run.max_new_tokens is not None:
        task = replace(task, max_new_tokens=run.max_new_tokens)
    splits = load_splits(
        task,
        run.train_file,
        run.validation_file,
        run.test_file,
        num_train=run.num_train,
        num_dev=_num_dev(run, task),
        num_test=run.num_test,
        examples_per_label=run.examples_per_label,
        split_seed=run.split_seed,
    )
    return task, splits


def _aimed(task: Task, run: RunSettings, architecture: Architecture) -> Task:
    """The task with the objective that the run asks for.

    Raises:
        UsageError: the task, or the model, has no such objective.
    """
    if run.objective in ("task", task.objective):
        return task
    if run.objective == "candidate_likelihood":
        raise UsageError(f"objective=candidate_likelihood: task {task.name} has no candidates to choose from")
    if architecture != "causal":
        raise UsageError(f"objective=language_modelling needs a causal model, not a {architecture} one")
    return replace(task, objective=run.objective)


def _num_dev(run: RunSettings, task: Task) -> int | None:
    return task.num_dev if run.num_dev == "auto" else run.num_dev


def _of_world(name: str, part: str) -> ModuleType:
    """The module that makes a world's model, or its task."""
    return importlib.import_module(f"{WORLDS[name]}.{part}")
