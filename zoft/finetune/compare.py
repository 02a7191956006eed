"""`zoft compare recipe=NAME methods=zo,mezo,adamw,lora-adamw`: one run a method on the same data, and one table.

A setting is for all methods, or for one where that one's name stands before it: `learning_rate=3e-4 adamw.learning_rate=1e-3`.
What is held equal is `equal=`:

- `forwards` (default): the forwards of `max_steps` zeroth-order steps. A backward pass counts as two forwards, its usual
  cost (one multiplication for the gradient of the inputs, one for that of the weights), so an AdamW step counts as three.
- `steps`: `max_steps` for every method.

With `max_time` each method has that much wall-clock time, and at most `max_steps` steps.
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

if TYPE_CHECKING:
    from zoft.finetune.summary import Summary

METHODS = ("zo", "mezo", *FIRST_ORDER)
BACKWARD = 2  # forwards that a backward pass counts for
QUIET = {"eval_strategy": "no", "save_strategy": "no"}  # training is timed alone, unless these are set


@dataclass(frozen=True)
class Comparison:
    """What is to be run, checked."""

    runs: dict[str, RunConfig]  # by method
    equal: str


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the comparison; returns the exit code, 2 for wrong input."""
    import sys

    return guarded(_run, sys.argv[1:] if argv is None else argv)


def read(argv: Sequence[str]) -> Comparison:
    """The comparison that a command line asks for.

    Raises:
        UsageError: as `zoft.config.load_config` for any of the methods; an unknown method.
    """
    methods, equal, shared = list(METHODS), "forwards", []
    own: dict[str, list[str]] = {}
    for argument in argv:
        key, _, text = argument.partition("=")
        owner, dot, rest = argument.partition(".")
        if key == "methods":
            methods = [name.strip() for name in text.split(",")]
        elif key == "equal":
            equal = text
        elif key == "method":
            raise UsageError(f"command line: method={text}: a comparison runs several; write methods={text},…")
        elif dot and owner in METHODS:
            own.setdefault(owner, []).append(rest)
        else:
            shared.append(argument)
    _check(methods, equal, own)
    runs = {name: _config([*shared, *own.get(name, ()), f"method={name}"]) for name in methods}
    if equal == "forwards":
        runs = {name: _with_equal_forwards(run) for name, run in runs.items()}
    return Comparison(runs, equal)


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

    first = next(iter(asked.runs.values()))
    state = PartialState()
    parent = run_folder(replace(first, recipe=f"compare-{first.recipe or first.run.task or 'run'}"))
    found: dict[str, list[Summary]] = {}
    for name, config in asked.runs.items():
        inside = replace(config, training={**config.training, "output_dir": str(parent / name)})
        many = inside.run.seeds is not None
        found[name] = finetune_seeds(inside, measured=True) if many else [finetune(inside, measured=True)]
    if state.is_main_process:
        parent.mkdir(parents=True, exist_ok=True)
        plain = {name: [asdict(summary) for summary in summaries] for name, summaries in found.items()}
        (parent / "compare.json").write_text(json.dumps({"equal": asked.equal, "methods": plain}, indent=1))
        print(f"\n{table(asked, found)}\nkept in {Path(parent)}")


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
            f"{rate}",
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
