"""`recipe=NAME|PATH key=value …` to one checked configuration, before torch or Transformers is imported."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from zoft.config.evaluation import EvaluationSettings
from zoft.config.fields import Field, fields_of, merged
from zoft.config.overridden import unlike_mezo, unread
from zoft.config.own_words import owner_of
from zoft.config.recipes import Layer, find, read_recipe
from zoft.config.run import FIRST_ORDER, RecipeNotes, RunSettings
from zoft.config.sharded import check_sharded_run
from zoft.config.suggest import did_you_mean
from zoft.config.training import training_fields
from zoft.config.values import checked, from_text
from zoft.errors import UsageError
from zoft.stability.lab.settings import LabSettings
from zoft.streaming.settings import check_streamed_run
from zoft.trainer.mezo_settings import check_mezo_settings, written
from zoft.trainer.refused import (
    check_launch,
    check_measuring,
    check_smoothing,
    check_training_settings,
    check_waiting,
)
from zoft.trainer.settings import ZOSettings

COMMAND_LINE = "command line"
# Transformers' own takes a number only; `auto` is for the stability monitor to choose.
LEARNING_RATE = Field("learning_rate", frozenset({float, str}), choices=("auto",), default=1e-6)


@dataclass(frozen=True)
class RunConfig:
    """A whole run, checked. Each of the three parts belongs to its owner."""

    run: RunSettings
    training: dict[str, Any]  # for TrainingArguments: only what a recipe or the command line says
    zo: ZOSettings
    recipe: str | None = None  # name; None: everything came from the command line
    notes: RecipeNotes = field(default_factory=RecipeNotes)
    lab: LabSettings = field(default_factory=LabSettings)  # of task=eos
    sources: dict[str, str] = field(default_factory=dict)  # setting -> the file, or "command line", it came from
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)  # of `zoft evaluate`
    remarks: tuple[str, ...] = ()  # lines that a run says of its settings when it starts

    def settings(self) -> dict[str, Any]:
        """Every setting that was given, by its flat name: what to write down to repeat the run."""
        owners = (vars(self.run), vars(self.zo), vars(self.lab), vars(self.evaluation), self.training)
        return {name: value for owner in owners for name, value in owner.items() if name in self.sources}

    def explain(self) -> str:
        """The settings given, one a line, each with the place it came from."""
        given = self.settings()
        width = max((len(f"{name}={value}") for name, value in given.items()), default=0)
        return "\n".join(
            f"{f'{name}={value}':<{min(width, 60)}}  # {self.sources[name]}" for name, value in sorted(given.items())
        )


def known_settings() -> dict[str, Field]:
    """Every setting there is, by name."""
    light = (RunSettings, ZOSettings, LabSettings, EvaluationSettings)
    known = merged([*map(fields_of, light), training_fields()])
    return {**known, LEARNING_RATE.name: LEARNING_RATE}


def load_config(
    argv: Sequence[str],
    environ: Mapping[str, str] = os.environ,
    below: Callable[[Mapping[str, Any]], Layer | None] | None = None,
) -> RunConfig:
    """Reads `recipe=NAME|PATH key=value …` and everything the recipe inherits; later values win.

    Args:
        below: settings that hold where neither says anything, found from what they say.

    Raises UsageError for an unknown recipe, setting or choice, a value of the wrong type, a file that is not there, a
    setting or launcher that zeroth-order training cannot honour.
    """
    known = known_settings()
    name, command_line = _parse(argv)
    recipe = read_recipe(name) if name is not None else None
    layers = recipe.layers if recipe else ()
    values, sources, remarks = _together(known, layers, command_line)
    if below is not None and (lowest := below(values)) is not None:
        values, sources, remarks = _together(known, (lowest, *layers), command_line)
    try:
        check_launch(environ)
        _mean_lora(values, sources)
        run = RunSettings(**{key: values[key] for key in fields_of(RunSettings) if key in values})
        if run.method == "mezo":  # before settings that it does not have are held against each other
            check_mezo_settings({key: values[key] for key in fields_of(ZOSettings) if key in values})
        zo = ZOSettings(**{key: values[key] for key in fields_of(ZOSettings) if key in values})
        lab = LabSettings(**{key: values[key] for key in fields_of(LabSettings) if key in values})
        asked = EvaluationSettings(**{key: values[key] for key in fields_of(EvaluationSettings) if key in values})
        training = {key: values[key] for key in values if key in training_fields()}
        check_training_settings(training, gradients=run.method in FIRST_ORDER)
        check_waiting(zo.zo_merge_every, training)
        check_smoothing(training.get("label_smoothing_factor"), "a task's objective")
        if run.memory_budget is not None:
            check_streamed_run({**vars(run), **vars(zo), **training})
        if run.sharding:
            check_sharded_run(vars(zo))
        if run.method in FIRST_ORDER:
            _refuse_zo_settings(run.method, sources)
        if run.method != "zo" and training.get("learning_rate") == "auto":
            raise UsageError(
                f"learning_rate=auto is for the stability monitor to choose, and method={run.method} has none; give a number"
            )
        check_measuring(zo, training)
    except UsageError as error:
        raise _with_source(error, sources) from error
    if run.model is None:
        raise UsageError(f"no model: {_how_to_start(recipe is not None)}")
    if recipe is None:
        return RunConfig(run, training, zo, lab=lab, sources=sources, evaluation=asked)
    return RunConfig(run, training, zo, recipe.name, recipe.notes, lab, sources, asked, remarks)


def _together(
    known: Mapping[str, Field], layers: Sequence[Layer], command_line: Sequence[tuple[str, str]]
) -> tuple[dict[str, Any], dict[str, str], tuple[str, ...]]:
    """What all layers and the command line say, where each setting is from, and what there is to say of it.

    Settings of an earlier layer that a later one left nothing to be read by are not among them.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    order: dict[str, int] = {}  # setting -> number of its layer
    for number, layer in enumerate(layers):
        for key, value in layer.settings.items():
            values[key] = _checked(known, key, value, layer.source)
            sources[key], order[key] = layer.source, number
    for key, text in command_line:
        owner = key.partition(".")[0]
        values[owner] = _from_command_line(known, key, text, values.get(owner))
        sources[owner], order[owner] = COMMAND_LINE, len(layers)
    foreign = {name: values[name] for name in unlike_mezo(values, order)}
    for name in {*foreign, *unread(values, order)}:
        del values[name], sources[name]
    if not foreign:
        return values, sources, ()
    settings = ", ".join(f"{name}={written(value)}" for name, value in foreign.items())
    remark = f"method=mezo is MeZO's own step, which has no {settings}: left out of the recipe"
    return values, sources, (remark,)


def _mean_lora(values: dict[str, Any], sources: Mapping[str, str]) -> None:
    """`method=lora-adamw` trains an adapter: it means tuning=lora. UsageError for another scheme that was asked for."""
    if values.get("method") != "lora-adamw":
        return
    if sources.get("tuning") == COMMAND_LINE and values["tuning"] != "lora":
        raise UsageError(
            f"tuning={values['tuning']} cannot be had with method=lora-adamw, which trains a LoRA adapter; use method=adamw"
        )
    values["tuning"] = "lora"


def _refuse_zo_settings(method: str, sources: Mapping[str, str]) -> None:
    """UsageError for zeroth-order settings on the command line; those of a recipe are its own step's and have no effect."""
    asked = [key for key in fields_of(ZOSettings) if sources.get(key) == COMMAND_LINE]
    if asked:
        raise UsageError(
            f"{asked[0]} cannot be had with method={method}, which takes gradients and no zeroth-order step; leave "
            f"{', '.join(asked)} out, or use method=zo"
        )


def _parse(argv: Sequence[str]) -> tuple[str | None, list[tuple[str, str]]]:
    """The recipe's name and the (key, text) pairs of a command line, in order."""
    name: str | None = None
    pairs: list[tuple[str, str]] = []
    for argument in argv:
        key, equals, text = argument.partition("=")
        if not equals or not key or key.startswith("-"):
            raise UsageError(f"{COMMAND_LINE}: cannot read {argument!r}: {_how_to_write(argument)}")
        if key == "recipe":
            name = text
        elif key == "base":
            raise UsageError(f"{COMMAND_LINE}: base= belongs in a recipe's file; here, write recipe={text}")
        else:
            pairs.append((key, text))
    return name, pairs


def _how_to_write(argument: str) -> str:
    if argument.startswith("-"):
        key, _, text = argument.lstrip("-").partition("=")
        return f"settings are written key=value, as {key.replace('-', '_')}={text or 'VALUE'}"
    try:
        find(argument)
    except UsageError:
        return "settings are written key=value, as learning_rate=1e-6; quote a value that holds spaces"
    return f"did you mean recipe={argument}?"


def _field(known: Mapping[str, Field], key: str, source: str) -> Field:
    if key not in known:
        if (owner := owner_of(key)) is not None:
            raise UsageError(f"{source}: {key}: for `zoft {owner}` only; leave it out here")
        raise UsageError(f"{source}: unknown setting {key!r}{did_you_mean(key, known)}")
    return known[key]


def _checked(known: Mapping[str, Field], key: str, value: Any, source: str) -> Any:
    field = _field(known, key, source)
    try:
        return checked(field, value)
    except UsageError as error:
        raise UsageError(f"{source}: {error}") from error


def _from_command_line(known: Mapping[str, Field], key: str, text: str, before: Any) -> Any:
    """The value of `key=text`; with `key.entry=text`, the mapping `before` with that one entry replaced."""
    name, dot, entry = key.partition(".")
    field = _field(known, key if owner_of(key) else name, COMMAND_LINE)
    try:
        if not dot:
            return checked(field, from_text(field, text))
        if dict not in field.kinds:
            raise UsageError(f"{name} is {field.describe()}, not a mapping; write {name}=VALUE")
        inside = Field(key, field.items)
        return {**(before if isinstance(before, dict) else {}), entry: checked(inside, from_text(inside, text))}
    except UsageError as error:
        raise UsageError(f"{COMMAND_LINE}: {error}") from error


def _with_source(error: UsageError, sources: Mapping[str, str]) -> UsageError:
    """The error with the file (or "command line") in front that set what it complains of, where it names a setting."""
    subject = re.split(r"[ :=]", str(error), maxsplit=1)[0]
    return UsageError(f"{sources[subject]}: {error}") if subject in sources else error


def _how_to_start(has_recipe: bool) -> str:
    if has_recipe:
        return "the recipe names none; add model=FOLDER-OR-HUB-NAME"
    return "start from a recipe, as recipe=quickstart (`zoft recipes` lists them), or add model=FOLDER-OR-HUB-NAME"
