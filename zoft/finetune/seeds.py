"""`seeds=0,1,2`: one thing done once for each seed, and what that says together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from zoft.config import RunConfig


def with_seed(config: RunConfig, seed: int, folder: str | None = None) -> RunConfig:
    """The run with `seed` alone; in a k-shot run the seed also draws the examples, as the field reports those.

    Args:
        folder: to keep the run in.
    """
    run = replace(config.run, seeds=None)
    sources = {name: source for name, source in config.sources.items() if name != "seeds"} | {"seed": "seeds"}
    if run.examples_per_label is not None:
        run = replace(run, split_seed=seed)
        sources["split_seed"] = "seeds"
    training: dict[str, Any] = {**config.training, "seed": seed}
    if folder is not None:
        training["output_dir"] = folder
        sources["output_dir"] = "seeds"
    return replace(config, run=run, training=training, sources=sources)


@dataclass(frozen=True)
class Spread:
    """Values of one thing, one a seed.

    >>> Spread((1.0, 2.0, 3.0)).text()
    '2.000 ± 1.000'
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return math.fsum(self.values) / len(self.values)

    @property
    def std(self) -> float:
        """The sample's standard deviation (n - 1 in the denominator); nan of a single value."""
        if len(self.values) < 2:
            return math.nan
        return math.sqrt(math.fsum((value - self.mean) ** 2 for value in self.values) / (len(self.values) - 1))

    def text(self) -> str:
        return f"{self.mean:.3f} ± {self.std:.3f}" if len(self.values) > 1 else f"{self.mean:.3f}"

    def plain(self) -> dict[str, Any]:
        """For a json file."""
        return {"mean": self.mean, "std": self.std if len(self.values) > 1 else None, "values": list(self.values)}


def table(seeds: Sequence[int], columns: dict[str, Spread]) -> str:
    """A row a seed and one for mean ± standard deviation, as a Markdown table.

    >>> print(table([0, 1], {"accuracy": Spread((0.5, 1.0))}))
    | seed | accuracy |
    |---|---|
    | 0 | 0.500 |
    | 1 | 1.000 |
    | mean ± std | 0.750 ± 0.354 |
    """
    rows = [["seed", *columns], ["---"] * (len(columns) + 1)]
    rows += [[str(seed), *(f"{c.values[i]:.3f}" for c in columns.values())] for i, seed in enumerate(seeds)]
    rows.append(["mean ± std", *(column.text() for column in columns.values())])
    return "\n".join("|---" * len(row) + "|" if row[0] == "---" else f"| {' | '.join(row)} |" for row in rows)
