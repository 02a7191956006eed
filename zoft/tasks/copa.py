"""COPA: which of two sentences is the cause, or the effect, of a premise?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zoft.errors import UsageError
from zoft.tasks.base import Architecture, Example, HubSource, Task, column_value

CONNECTIVES = {"cause": "because", "effect": "so"}


@dataclass(frozen=True)
class _Copa(Task):
    objective: str = "language_modelling"
    architectures: tuple[Architecture, ...] = ("causal",)

    @property
    def columns(self) -> tuple[str, ...]:
        return ("premise", "question", "choice1", "choice2", "label")

    @property
    def labels(self) -> tuple[str, ...]:
        return ("0", "1")

    def example(self, row: Mapping[str, Any], number: int, source: str = "") -> Example:
        where = f"{source}, row {number}" if source else f"row {number}"
        premise, question, *choices, label = (str(column_value(row, name, where)).strip() for name in self.columns)
        if question not in CONNECTIVES:
            raise UsageError(f"{where}: the question is {question!r}; allowed: {', '.join(CONNECTIVES)}")
        if label not in self.labels:
            raise UsageError(f"{where}: label {label!r} is not among {', '.join(self.labels)}")
        return Example(
            prompt=f"{premise.rstrip('.')} {CONNECTIVES[question]}",
            candidates=tuple(f" {_inside(choice)}" for choice in choices),
            gold=int(label),
            row=number,
            source=source,
        )


def _inside(sentence: str) -> str:
    """A sentence as it goes on after a conjunction: a small letter, but for the word I."""
    return sentence if sentence.split(" ")[0].split("'")[0] == "I" else sentence[:1].lower() + sentence[1:]


COPA = _Copa(name="copa", num_dev=100, hub=HubSource("aps/super_glue", "copa"))
