"""What `zoft compare` is asked for: its words read and checked, one run a method, each with its share of the budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from zoft.config import RunConfig, load_config, read_recipe
from zoft.config.load import COMMAND_LINE
from zoft.config.run import FIRST_ORDER
from zoft.config.suggest import did_you_mean
from zoft.errors import UsageError
from zoft.finetune import refuse_evaluation_settings
from zoft.finetune.asked_task import check_task
from zoft.finetune.budget import LIMITS, ROWS, Budget, budget_of
from zoft.finetune.named import NAMED, settings_of, unit_of_rate
from zoft.trainer.refused import check_measuring

DEFAULT = ("zo", "mezo", *FIRST_ORDER)
METHODS = (*DEFAULT, *NAMED)
OWN_WORDS = ("methods", "grid", "budget", "equal")  # of the comparison; all others are settings of runs
QUIET = {"eval_strategy": "no", "save_strategy": "no"}  # training is timed alone, unless these are set


@dataclass(frozen=True)
class Comparison:
    """What is to be run, checked."""

    runs: dict[str, RunConfig]  # by method
    equal: str  # forwards, steps or time
    grid: tuple[float, ...] = ()  # multiples of each method's learning rate to choose from; empty: it is taken as it is


@dataclass(frozen=True)
class _Words:
    """A command line, sorted; settings as they were written."""

    own: dict[str, str] = field(default_factory=dict)  # of OWN_WORDS
    shared: list[str] = field(default_factory=list)  # settings of all methods
    of: dict[str, list[str]] = field(default_factory=dict)  # settings of one, by method

    def config(self, name: str, budget: Budget, leave_out: Sequence[str] = ()) -> RunConfig:
        """The run of method `name`, before its share of the budget is known."""
        own = [setting for setting in self.of.get(name, ()) if setting.partition("=")[0] not in leave_out]
        config = load_config([*self.shared, *budget.settings, *settings_of(name), *own])
        refuse_evaluation_settings(config)
        if config.run.task == "eos":
            raise UsageError("task=eos is the laboratory and has no methods to compare; use zoft finetune")
        check_task(config.run)
        if config.run.memory_budget is not None:
            raise UsageError(
                "memory_budget: zoft compare measures a step on a copy of the model, and a streamed one has none"
            )
        asked = {key for key in QUIET if config.sources.get(key) == COMMAND_LINE}
        quiet: dict[str, object] = {key: value for key, value in QUIET.items() if key not in asked}
        if quiet and config.sources.get("load_best_model_at_end") != COMMAND_LINE:
            quiet["load_best_model_at_end"] = False  # a recipe's would choose among evaluations that are not made
        return replace(config, training={**config.training, **quiet})


def read(argv: Sequence[str]) -> Comparison:
    """The comparison that a command line asks for.

    Raises:
        UsageError: as `zoft.config.load_config` for any of the methods; an unknown method; settings that contradict each other.
    """
    words = _sorted(argv)
    methods = [name.strip() for name in words.own.get("methods", ",".join(DEFAULT)).split(",")]
    _check_methods(methods, words)
    for name in methods:
        _check_preset(name, words)
    budget = budget_of(words.own, _values(words.shared))
    grid = _grid(words.own["grid"]) if "grid" in words.own else ()
    runs = {name: _config_of(name, methods, words, budget) for name in methods}
    _check_units(runs, words)
    if grid:
        _check_rates(runs)
    unit = words.config(methods[0], budget, leave_out=ROWS)
    shared = {name: budget.share(name, run, unit) for name, run in runs.items()}
    for name, run in shared.items():
        try:
            check_measuring(run.zo, run.training)
        except UsageError as error:
            raise UsageError(f"{name}: {error}") from error
    return Comparison(shared, budget.equal, grid)


def _sorted(argv: Sequence[str]) -> _Words:
    words = _Words()
    for argument in argv:
        key, _, text = argument.partition("=")
        owner, dot, rest = argument.partition(".")
        if key == "method":
            raise UsageError(f"command line: method={text}: a comparison runs several; write methods={text},…")
        if key in OWN_WORDS:
            if key in words.own:
                raise UsageError(f"{key} was given twice, as {words.own[key]} and as {text}; give it once")
            words.own[key] = text
        elif dot and owner in METHODS:
            words.of.setdefault(owner, []).append(rest)
        else:
            words.shared.append(argument)
    return words


def _config_of(name: str, methods: Sequence[str], words: _Words, budget: Budget) -> RunConfig:
    """One method's run; where it refuses a setting for all methods that others take, the error says how to write that."""
    try:
        return words.config(name, budget)
    except UsageError as error:
        for setting in words.shared:
            without = replace(words, shared=[other for other in words.shared if other != setting])
            if setting.startswith("recipe=") or not _loads(name, without, budget):
                continue
            taking = [other for other in methods if other != name and _loads(other, words, budget)]
            if taking:
                raise UsageError(
                    f"{setting} was given for all methods, and {name} refuses it ({error}); write "
                    f"{' '.join(f'{other}.{setting}' for other in taking)} instead"
                ) from error
        raise


def _loads(name: str, words: _Words, budget: Budget) -> bool:
    try:
        words.config(name, budget)
    except UsageError:
        return False
    return True


def _values(settings: Sequence[str]) -> dict[str, str]:
    return {key: text for key, _, text in (setting.partition("=") for setting in settings)}


def _grid(text: str) -> tuple[float, ...]:
    try:
        factors = tuple(sorted(float(word) for word in text.split(",")))
    except ValueError:
        factors = ()
    if not factors or not all(0.0 < factor < math.inf for factor in factors):
        raise UsageError(f"grid is a list of multiples of the learning rate, as 0.1,0.3,1,3, but {text!r} was given")
    return factors


def _check_methods(methods: Sequence[str], words: _Words) -> None:
    for name in methods:
        if name not in METHODS:
            raise UsageError(f"methods: there is no method {name!r}{did_you_mean(name, METHODS)}")
    if len(set(methods)) < len(methods):
        raise UsageError(f"methods: each once, but {','.join(methods)} was given")
    for name, settings in words.of.items():
        if name not in methods:
            raise UsageError(f"settings for {name} were given, which is not among methods={','.join(methods)}")
        limit = next((key for key in _values(settings) if key in LIMITS), None)
        if limit is not None:
            raise UsageError(f"{name}.{limit}: what is held equal is set for all methods together; write {limit}=…")


def _check_preset(name: str, words: _Words) -> None:
    """UsageError where what was asked for all methods is not what makes this one; its own settings may change it."""
    own = _values(words.of.get(name, ()))
    for key, text in _values(words.shared).items():
        value = NAMED.get(name, {}).get(key)
        if value is not None and text != str(value) and key not in own:
            raise UsageError(
                f"{key}={text} was given for all methods, but {name} stands for {key}={value}; write {name}.{key}={text} to "
                f"change {name} as well, {name}.{key}={value} to keep it, or METHOD.{key}={text} for the others alone"
            )


def _check_units(runs: Mapping[str, RunConfig], words: _Words) -> None:
    """UsageError where one number would be a learning rate in two units."""
    sharing = {
        name: run for name, run in runs.items() if "learning_rate" not in _values(words.of.get(name, ()))
        and run.training.get("learning_rate") != "auto"
    }  # fmt: skip
    units = {name: unit_of_rate({**vars(run.run), **vars(run.zo), **run.training}) for name, run in sharing.items()}
    recipe = _values(words.shared).get("recipe")
    for name, run in sharing.items():
        source = run.sources.get("learning_rate")
        if source == COMMAND_LINE:
            meant = next(iter(units.values()))
        elif source is not None and recipe is not None:
            meant = unit_of_rate(read_recipe(recipe).settings())
        else:  # the method's default
            meant = unit_of_rate({"method": run.run.method})
        if units[name] != meant:
            auto = all(other.run.method == "zo" for other in runs.values())
            raise UsageError(
                f"learning_rate={run.training.get('learning_rate', 'its default')} is in units of {meant}, but that of {name} "
                f"is in units of {units[name]}: set {name}.learning_rate{', or learning_rate=auto for all' if auto else ''}"
            )


def _check_rates(runs: Mapping[str, RunConfig]) -> None:
    """UsageError where a grid has no number to multiply."""
    for name, run in runs.items():
        rate = run.training.get("learning_rate")
        if not isinstance(rate, int | float):
            raise UsageError(
                f"grid multiplies learning_rate, which is {rate or 'not given'} for {name}; give each method a number, or "
                "leave grid out"
            )
