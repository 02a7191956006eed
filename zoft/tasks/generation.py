"""Questions answered in free text: a template makes the prompt, a column (or an official format) holds the answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from zoft.errors import UsageError
from zoft.tasks.base import Architecture, Example, Task, column_value
from zoft.tasks.template import asked, slots


@dataclass(frozen=True)
class Generation(Task):
    """A template with ``{column}`` slots, and a column with the answer: a text, or a list of texts that are all right.

    The first answer is what is taught, closed by `stop`, so that the model learns where an answer ends.

    Raises:
        UsageError: a template that is not one.
    """

    metric: str = "token_f1"
    objective: str = "language_modelling"
    generates: bool = True
    architectures: tuple[Architecture, ...] = ("causal",)
    template: str = ""
    target_column: str = "answers"
    passage_column: str | None = None  # shortened when a prompt is too long; None: the template's first

    def __post_init__(self) -> None:
        columns = slots(self.template, self.name)
        if self.passage_column is None:
            object.__setattr__(self, "passage_column", columns[0])

    @property
    def columns(self) -> tuple[str, ...]:
        return (*slots(self.template, self.name), self.target_column)

    def with_settings(
        self,
        template: str | None = None,
        label_words: Mapping[str, str] | None = None,
        label_column: str | None = None,
        target_column: str | None = None,
    ) -> Generation:
        changed = super().with_settings(template, label_words, label_column, target_column)
        if template is not None and self.passage_column not in slots(template, self.name):
            changed = replace(changed, passage_column=slots(template, self.name)[0])
        return changed

    def example(self, row: Mapping[str, Any], number: int, source: str = "") -> Example:
        where = f"{source}, row {number}" if source else f"row {number}"
        question = asked(self.template, row, where, self.passage_column)
        answers = self.answers(row, where)
        return Example(
            prompt=question.prompt,
            candidates=(question.lead + answers[0] + (self.stop or ""),),
            gold=0,
            row=number,
            source=source,
            passage=question.passage,
            suffix=question.suffix,
            answers=answers,
        )

    def answers(self, row: Mapping[str, Any], where: str) -> tuple[str, ...]:
        """Every answer that counts as right, each once, the one to be taught first.

        Raises:
            UsageError: there is none, or one is empty; names the row.
        """
        value = column_value(row, self.target_column, where)
        texts = [str(text).strip() for text in (value if isinstance(value, (list, tuple)) else (value,))]
        if not texts or not all(texts):
            raise UsageError(f"{where}: the answer in column {self.target_column!r} is empty")
        if self.stop is not None:
            held = next((text for text in texts[:1] if self.stop in text), None)
            if held is not None:
                raise UsageError(f"{where}: the answer {held!r} holds {self.stop!r}, where a generated answer ends")
        return tuple(dict.fromkeys(texts))
