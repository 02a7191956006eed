"""A cell of the book's table, and the recipe that it makes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from zoft.config.book.models import MODELS, BookModel
from zoft.config.book.published import (
    F1,
    LONG,
    OPT,
    OPT_GRIDS,
    ROBERTA,
    ROBERTA_GRIDS,
    ROBERTA_RUN,
    ROWS,
    Results,
)
from zoft.costs.memory import Setup

# The step of zoft in place of the published one; eps keeps its size, as a power of two where all weights are trained.
OWN_STEP = {
    "zo_distribution": "rademacher", "perturbation": "read_only", "weight_rounding": "auto", "stability": "cap",
    "guard": "skip",
}  # fmt: skip
OWN_EPS = 2.0**-10


@dataclass(frozen=True)
class Cell:
    """One model, task and tuning scheme: the published run, or zoft's own beside it."""

    row: Results
    task: str
    own: bool = False

    @property
    def name(self) -> str:
        """Such as `opt-13b-rte-lora-zoft`."""
        tuning = "" if self.row.tuning == "full" else f"-{self.row.tuning}"
        return f"{self.row.model}-{self.task}{self.row.suffix}{tuning}{'-zoft' if self.own else ''}"

    @property
    def model(self) -> BookModel:
        return MODELS[self.row.model]

    @property
    def target(self) -> float | None:
        """Percent, as published."""
        return self.row.values[self.row.tasks.index(self.task)]

    @property
    def dtype(self) -> str:
        """float32 where weights are written in place, 16 bits where the base is only read or rounding is kept track of."""
        if self.row.model == "roberta-large":
            return "float32"
        if self.row.tuning != "full":
            return "bfloat16"
        return "bfloat16" if self.own else "float32"

    def settings(self) -> dict[str, Any]:
        """What stands above `base/mezo`."""
        few_shot = self.row.model == "roberta-large"
        values: dict[str, Any] = {"model": self.model.hub, "task": self.task, "dtype": self.dtype}
        values |= {"tuning": self.row.tuning, **(ROBERTA if few_shot else OPT)[self.row.tuning]}
        if few_shot:
            values |= {**ROBERTA_RUN, "examples_per_label": int(self.row.suffix.removeprefix("-k"))}
        if self.task == "wsc" and self.row.tuning == "full":
            values["learning_rate"] = 1e-7
        values |= self.row.changes
        if self.own:
            values |= OWN_STEP
            if self.row.tuning == "full":
                values["zo_eps"] = OWN_EPS
        return values

    def notes(self) -> dict[str, str]:
        """What the recipe says about itself."""
        metric = "test F1" if self.task in F1 else "test accuracy"
        beside = f"{self.name.removesuffix('-zoft')}"
        if self.target is None:
            expect = f"none published; {self.row.remark}" if "failed" in self.row.remark else "none published"
        else:
            expect = f"{metric} {self.target} %" + (f"; {self.row.remark}" if self.row.remark else "")
        if self.own:
            expect = f"the published {self.target} % of {beside} within its spread; not yet measured"
        return {"description": self._description(), "needs": self._needs(), "expect": expect, "source": self._source()}

    def _description(self) -> str:
        if self.own:
            return (
                "The published run beside it with zoft's own step; everything but the step and the dtype is the same."
            )
        if self.row.model == "roberta-large":
            return f"MeZO's published settings; its grid of learning rates is {ROBERTA_GRIDS[self.row.tuning]}."
        grid = OPT_GRIDS[self.row.tuning + (" f1" if self.task in F1 else "")]
        whose = "MeZO's published settings" if self.row.model.startswith("opt") else "The settings published for OPT"
        return f"{whose}; their grid of learning rates is {grid}."

    def _source(self) -> str:
        if self.target is not None or self.row.model.startswith("opt"):
            return self.row.source
        return "settings: Malladi et al. 2023 (MeZO), Table 16, for OPT"

    def _needs(self) -> str:
        setup = self.setup
        gated = "; the model is gated: accept its licence on the Hub and log in first" if self.model.gated else ""
        return (
            f"{self.model.step_memory(setup).total / 1e9:.1f} GB, computed: {self.model.weight_bytes(setup) / 1e9:.1f} GB of "
            f"{self.dtype} weights, copies of one matrix and a batch of {setup.rows} texts of {setup.tokens} tokens{gated}"
        )

    @property
    def setup(self) -> Setup:
        """What the memory is computed for."""
        return Setup(
            dtype=self.dtype, tuning=self.row.tuning, in_place=not self.own,
            rows=64 if self.row.model == "roberta-large" else 16, tokens=512 if self.task in LONG else 128,
        )  # fmt: skip


@cache
def book() -> dict[str, Cell]:
    """Every cell by the name of its recipe. zoft's own run stands beside each one that has a published target."""
    published = [Cell(row, task) for row in ROWS for task in row.tasks]
    own = [Cell(cell.row, cell.task, own=True) for cell in published if cell.target is not None]
    return {cell.name: cell for cell in [*published, *own]}


def book_names() -> list[str]:
    """Names of the recipes of the book, in the order of the table."""
    return list(book())


def cell_of(name: str) -> Cell | None:
    """The cell whose recipe is called `name`."""
    return book().get(name)
