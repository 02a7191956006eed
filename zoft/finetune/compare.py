"""`zoft compare recipe=NAME methods=zo,mezo,adamw,lora-adamw`: one run a method on the same data, and one table.

A setting is for all methods, or for one where that one's name stands before it: `learning_rate=3e-4 adamw.learning_rate=1e-3`.
What is held equal is `equal=`:

- `forwards` (default): those of `budget=forwards:20000`, or of `max_steps` steps with two forwards each. A backward pass counts
  as two forwards, its usual cost (one multiplication for the gradient of the inputs, one for that of the weights), so an AdamW
  step counts as three; every micro-batch of a step counts, and one with fewer examples than all methods' by its share.
- `steps`: `max_steps` for every method.
- `time`: `budget=time:10m`, or `max_time=10m`, of training for every method. A recipe's `max_steps` does not stop it, and the
  learning rate is constant, since a schedule would need to know how many steps there will be.

Two of these on one command line are an error. So is a setting for all methods that is not what a method's name stands for
(`methods=zo,fzoo zo_directions=4`: fzoo stands for eight), and one learning rate for methods that count it in different units.

Beside `zo` (the recipe's own settings), `mezo`, `adamw` and `lora-adamw` there are the methods of `zoft.finetune.named`. With
`grid=0.1,0.3,1,3` each method's learning rate is chosen by one rule: its own `learning_rate` times each of these, one run each
with the first seed, and the one with the best metric on dev, the lowest where that is the loss (of equals the smaller rate).
`learning_rate=auto` is the other rule.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from zoft.config import RunConfig
from zoft.config.console import guarded
from zoft.config.run import FIRST_ORDER
from zoft.finetune.budget import with_training
from zoft.finetune.comparison import Comparison, read

if TYPE_CHECKING:
    from zoft.finetune.summary import Summary


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the comparison; returns the exit code, 2 for wrong input."""
    return guarded(_run, argv)


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
        rates = {name: config.training.get("learning_rate", "default") for name, config in asked.runs.items()}
        plain = {name: [asdict(summary) for summary in summaries] for name, summaries in found.items()}
        kept = {"equal": asked.equal, "learning_rates": rates, "methods": plain}
        (parent / "compare.json").write_text(json.dumps(kept, indent=1))
        plot_methods({name: [s.after for s in summaries] for name, summaries in found.items()}, parent / "compare.png")
        print(f"\n{table(asked, found)}\nkept in {Path(parent)}")


def _tuned(config: RunConfig, grid: Sequence[float], folder: Path) -> RunConfig:
    """The run with the learning rate of the grid that is best on dev."""
    from zoft.finetune.seeds import with_seed
    from zoft.finetune.session import finetune

    rate = config.training["learning_rate"]
    if config.run.seeds:
        config, seeds = with_seed(config, config.run.seeds[0]), config.run.seeds
    else:
        seeds = None
    found = []  # (worse on dev, learning rate)
    for factor in sorted(grid):
        trial = with_training(config, learning_rate=rate * factor, output_dir=str(folder / f"{factor:g}"))
        summary = finetune(trial, on_dev=True)
        badness = summary.after if summary.lower_is_better else -summary.after
        found.append((badness if math.isfinite(badness) else math.inf, rate * factor))
    return replace(with_training(config, learning_rate=min(found)[1]), run=replace(config.run, seeds=seeds))


def table(asked: Comparison, found: Mapping[str, Sequence[Summary]]) -> str:
    """A row a method, as a Markdown table; means over the seeds."""
    from zoft.finetune.seeds import Spread
    from zoft.limits import human_bytes

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
