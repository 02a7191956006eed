"""`zoft compare recipe=NAME methods=zo,mezo,adamw,lora-adamw`: one run a method on the same data, and one table.

A setting is for all methods, or for one where that one's name stands before it: `learning_rate=3e-4 adamw.learning_rate=1e-3`.
What is held equal is `equal=`:

- `forwards` (default): the forwards of `max_steps` zeroth-order steps. A backward pass counts as two forwards, its usual
  cost (one multiplication for the gradient of the inputs, one for that of the weights), so an AdamW step counts as three.
- `steps`: `max_steps` for every method.

`budget=forwards:20000` is the first in other words; `budget=time:10m` gives each method that much wall-clock time.

Beside `zo` (the recipe's own settings), `mezo`, `adamw` and `lora-adamw` there are the methods of `zoft.finetune.named`. With
`grid=0.1,0.3,1,3` each method's learning rate is chosen by one rule: its own `learning_rate` times each of these, one run each
with the first seed, and the one with the best metric on dev (of equals the smaller). `learning_rate=auto` is the other rule.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from zoft.config import RunConfig, load_config
from zoft.config.console import guarded
from zoft.config.run import FIRST_ORDER
from zoft.config.suggest import did_you_mean
from zoft.errors import UsageError
from zoft.finetune import refuse_evaluation_settings
from zoft.finetune.named import IN_WEIGHTS, NAMED, settings_of

if TYPE_CHECKING:
    from zoft.finetune.summary import Summary

DEFAULT = ("zo", "mezo", *FIRST_ORDER)
METHODS = (*DEFAULT, *NAMED)
BACKWARD = 2  # forwards that a backward pass counts for
QUIET = {"eval_strategy": "no", "save_strategy": "no"}  # training is timed alone, unless these are set


@dataclass(frozen=True)
class Comparison:
    """What is to be run, checked."""

    runs: dict[str, RunConfig]  # by method
    equal: str
    grid: tuple[float, ...] = ()  # multiples of each method's learning rate to choose from; empty: it is taken as it is


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the comparison; returns the exit code, 2 for wrong input."""
    import sys

    return guarded(_run, sys.argv[1:] if argv is None else argv)


def read(argv: Sequence[str]) -> Comparison:
    """The comparison that a command line asks for.

    Raises:
        UsageError: as `zoft.config.load_config` for any of the methods; an unknown method.
    """
    methods, equal, shared, grid = list(DEFAULT), "forwards", [], ()
    own: dict[str, list[str]] = {}
    for argument in argv:
        key, _, text = argument.partition("=")
        owner, dot, rest = argument.partition(".")
        if key == "methods":
            methods = [name.strip() for name in text.split(",")]
        elif key == "equal":
            equal = text
        elif key == "budget":
            equal, setting = _budget(text)
            shared.append(setting)
        elif key == "grid":
            grid = _grid(text)
        elif key == "method":
            raise UsageError(f"command line: method={text}: a comparison runs several; write methods={text},…")
        elif dot and owner in METHODS:
            own.setdefault(owner, []).append(rest)
        else:
            shared.append(argument)
    _check(methods, equal, own)
    runs = {name: _config([*shared, *settings_of(name), *own.get(name, ())]) for name in methods}
    _check_units(runs, own)
    if equal == "forwards":
        runs = {name: _with_equal_forwards(run) for name, run in runs.items()}
    return Comparison(runs, equal, grid)


def _budget(text: str) -> tuple[str, str]:
    """(equal, the setting that carries it) of `forwards:20000` or `time:10m`."""
    kind, _, amount = text.partition(":")
    if kind == "time" and amount:
        return "steps", f"max_time={amount}"
    if kind == "forwards" and amount.isdecimal() and int(amount) > 1:
        return "forwards", f"max_steps={int(amount) // 2}"
    raise UsageError(f"budget must be such as forwards:20000 or time:10m, but {text!r} was given")


def _grid(text: str) -> tuple[float, ...]:
    try:
        factors = tuple(sorted(float(word) for word in text.split(",")))
    except ValueError:
        factors = ()
    if not factors or not all(0.0 < factor < math.inf for factor in factors):
        raise UsageError(f"grid is a list of multiples of the learning rate, as 0.1,0.3,1,3, but {text!r} was given")
    return factors


def _check_units(runs: Mapping[str, RunConfig], own: Mapping[str, Sequence[str]]) -> None:
    """UsageError where one number would be a learning rate in two units."""
    for name in runs.keys() & IN_WEIGHTS:
        mine = any(setting.startswith("learning_rate=") for setting in own.get(name, ()))
        if not mine and runs[name].training.get("learning_rate") != "auto":
            raise UsageError(
                f"the learning rate of {name} is in units of the weights, that of zo in weights^2 per loss: set "
                f"{name}.learning_rate, or learning_rate=auto for all"
            )


def _check(methods: Sequence[str], equal: str, own: Mapping[str, object]) -> None:
    for name in methods:
        if name not in METHODS:
            raise UsageError(f"methods: there is no method {name!r}{did_you_mean(name, METHODS)}")
    if len(set(methods)) < len(methods):
        raise UsageError(f"methods: each once, but {','.join(methods)} was given")
    stray = sorted(own.keys() - set(methods))
    if stray:
        raise UsageError(f"settings for {stray[0]} were given, which is not among methods={','.join(methods)}")
    if equal not in ("forwards", "steps"):
        raise UsageError(f"equal must be forwards or steps, but {equal!r} was given; for equal time set max_time")


def _config(argv: list[str]) -> RunConfig:
    config = load_config(argv)
    refuse_evaluation_settings(config)
    if config.run.task == "eos":
        raise UsageError("task=eos is the laboratory and has no methods to compare; use zoft finetune")
    asked = {name: value for name, value in config.training.items() if config.sources.get(name) == "command line"}
    return replace(config, training={**config.training, **{k: v for k, v in QUIET.items() if k not in asked}})


def forwards_per_step(config: RunConfig) -> int:
    """Of one micro-batch, a backward pass counting as two."""
    if config.run.method in FIRST_ORDER:
        return 1 + BACKWARD
    if config.run.method == "mezo":
        return 2
    from zoft.directions import DirectionSource
    from zoft.estimators import estimator

    if config.zo.zo_directions_schedule != "constant":
        raise UsageError(
            f"zo_directions_schedule={config.zo.zo_directions_schedule} makes steps of unequal cost, so no number of steps "
            "follows from equal forwards; take equal=steps or max_time"
        )

    made = estimator(config.zo.zo_estimator, eps=config.zo.zo_eps)
    return len(made.population(DirectionSource(0).at(0, config.zo.zo_directions)))


def _with_equal_forwards(config: RunConfig) -> RunConfig:
    """`max_steps` zeroth-order steps of one direction are the budget."""
    steps = config.training.get("max_steps", -1)
    if steps <= 0:
        raise UsageError("equal=forwards shares out the forwards of max_steps steps; set max_steps")
    allowed = max(1, 2 * steps // forwards_per_step(config))
    return replace(config, training={**config.training, "max_steps": allowed})


def _run(argv: Sequence[str]) -> None:
    asked = read(argv)
    from accelerate import PartialState

    from zoft.finetune.folder import run_folder
    from zoft.finetune.session import finetune, finetune_seeds
    from zoft.report.figure import plot_methods

    first = next(iter(asked.runs.values()))
    state = PartialState()
    parent = run_folder(replace(first, recipe=f"compare-{first.recipe or first.run.task or 'run'}"))
    found: dict[str, list[Summary]] = {}
    if asked.grid:
        asked = replace(
            asked, runs={name: _tuned(c, asked.grid, parent / "grid" / name) for name, c in asked.runs.items()}
        )
    for name, config in asked.runs.items():
        inside = replace(config, training={**config.training, "output_dir": str(parent / name)})
        many = inside.run.seeds is not None
        found[name] = finetune_seeds(inside, measured=True) if many else [finetune(inside, measured=True)]
    if state.is_main_process:
        parent.mkdir(parents=True, exist_ok=True)
        plain = {name: [asdict(summary) for summary in summaries] for name, summaries in found.items()}
        (parent / "compare.json").write_text(json.dumps({"equal": asked.equal, "methods": plain}, indent=1))
        plot_methods({name: [s.after for s in summaries] for name, summaries in found.items()}, parent / "compare.png")
        print(f"\n{table(asked, found)}\nkept in {Path(parent)}")


def _tuned(config: RunConfig, grid: Sequence[float], folder: Path) -> RunConfig:
    """The run with the learning rate of the grid that is best on dev."""
    from zoft.finetune.seeds import with_seed
    from zoft.finetune.session import finetune

    rate = config.training.get("learning_rate")
    if not isinstance(rate, int | float):
        raise UsageError("grid multiplies learning_rate; give each method a number, or leave grid out")
    if config.run.seeds:
        config, seeds = with_seed(config, config.run.seeds[0]), config.run.seeds
    else:
        seeds = None
    best: tuple[float, float] | None = None  # metric on dev, learning rate
    for factor in sorted(grid):
        training = {**config.training, "learning_rate": rate * factor, "output_dir": str(folder / f"{factor:g}")}
        score = finetune(replace(config, training=training), on_dev=True).after
        if math.isfinite(score) and (best is None or score > best[0]):
            best = score, rate * factor
    chosen = {**config.training, "learning_rate": rate if best is None else best[1]}
    return replace(config, run=replace(config.run, seeds=seeds), training=chosen)


def table(asked: Comparison, found: Mapping[str, Sequence[Summary]]) -> str:
    """A row a method, as a Markdown table; means over the seeds."""
    from zoft.finetune.seeds import Spread
    from zoft.report.table import human_bytes

    metric = next(iter(found.values()))[0].metric
    head = ["method", "learning rate", f"{metric} before", f"{metric} after", "steps", "forwards", "backwards",
            "seconds", "peak memory of a step"]  # fmt: skip
    lines = [" | ".join(head), " | ".join(["---"] * len(head))]
    for name, summaries in found.items():
        count = len(summaries)
        forwards = sum(s.forwards for s in summaries) / count
        rate = asked.runs[name].training.get("learning_rate", "default")
        cells = [
            name,
            f"{rate:.3g}" if isinstance(rate, float) else f"{rate}",
            Spread(tuple(s.before for s in summaries)).text(),
            Spread(tuple(s.after for s in summaries)).text(),
            f"{sum(s.steps for s in summaries) / count:.0f}",
            f"{forwards:.0f}",
            f"{forwards:.0f}" if name in FIRST_ORDER else "0",
            f"{math.fsum(s.seconds for s in summaries) / count:.1f}",
            human_bytes(max(s.peak_bytes or 0 for s in summaries)),
        ]
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines)
