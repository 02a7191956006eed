"""Plain text, for language modelling: a line of a txt file is a text, or a row's column is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zoft.tasks.base import Architecture, Example, Task, column_value


@dataclass(frozen=True)
class PlainText(Task):
    """Every token but a text's first is taught. Splits are taken in the file's order, since its lines may run on."""

    metric: str = "loss"
    objective: str = "language_modelling"
    architectures: tuple[Architecture, ...] = ("causal",)
    ordered: bool = True
    target_column: str = "text"

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.target_column,)

    def of_line(self, line: str) -> Mapping[str, Any]:
        return {self.target_column: line}

    def example(self, row: Mapping[str, Any], number: int, source: str = "") -> Example:
        where = f"{source}, row {number}" if source else f"row {number}"
        text = str(column_value(row, self.target_column, where))
        return Example(prompt="", candidates=(text,), gold=0, row=number, source=source)


TEXT = PlainText(name="text")
