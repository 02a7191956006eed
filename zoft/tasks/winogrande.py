"""WinoGrande: which of two nouns belongs in the gap of a sentence?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zoft.errors import UsageError
from zoft.tasks.base import Architecture, Example, HubSource, Task, column_value

GAP = "_"


@dataclass(frozen=True)
class _WinoGrande(Task):
    """A candidate is a noun and the rest of the sentence, which tells the two apart."""

    objective: str = "language_modelling"
    architectures: tuple[Architecture, ...] = ("causal",)

    @property
    def columns(self) -> tuple[str, ...]:
        return ("sentence", "option1", "option2", "answer")

    @property
    def labels(self) -> tuple[str, ...]:
        return ("1", "2")

    def example(self, row: Mapping[str, Any], number: int, source: str = "") -> Example:
        where = f"{source}, row {number}" if source else f"row {number}"
        sentence, *options, answer = (str(column_value(row, name, where)).strip() for name in self.columns)
        before, gap, after = sentence.partition(GAP)
        if not gap or GAP in after:
            raise UsageError(f"{where}: the sentence needs one gap, written {GAP}: {sentence!r}")
        if answer not in self.labels:
            raise UsageError(f"{where}: answer {answer!r} is not among {', '.join(self.labels)}")
        kept = before.rstrip(" ")
        return Example(
            prompt=kept,
            candidates=tuple(f"{before[len(kept) :]}{option}{after}" for option in options),
            gold=self.labels.index(answer),
            row=number,
            source=source,
            names=tuple(options),
        )


WINOGRANDE = _WinoGrande(
    name="winogrande", hub=HubSource("allenai/winogrande", "winogrande_m", revision="refs/convert/parquet")
)
