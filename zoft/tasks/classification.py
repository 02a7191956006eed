"""Classification by label words: a template makes the prompt, each label has a word the model may say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from zoft.errors import UsageError
from zoft.tasks.base import Architecture, Example, Task, column_value
from zoft.tasks.template import asked, slots


@dataclass(frozen=True)
class Classification(Task):
    """A template with ``{column}`` slots, and a label word for each label.

    ``{answer}`` marks where the word goes; see `zoft.tasks.template`.

    Raises:
        UsageError: a template that is not one, label words that are too few, empty or the same.
    """

    template: str = ""
    label_words: Mapping[str, str] = field(default_factory=dict)  # label as it stands in the data -> word
    label_column: str = "label"
    label_names: tuple[str, ...] = ()  # label number i, as the Hub stores it, is called label_names[i]
    masked_template: str | None = None  # for masked language models; None: `template`
    classifier_template: str | None = None  # for classification heads; None: the template's columns side by side
    group_column: str | None = None  # rows with one value in it are scored together
    passage_column: str | None = None  # shortened when a prompt is too long; None: the template's first

    def __post_init__(self) -> None:
        columns = slots(self.template, self.name)
        if self.masked_template is not None:
            slots(self.masked_template, self.name)
        if self.passage_column is None and columns:
            object.__setattr__(self, "passage_column", columns[0])
        check_label_words(self.label_words)
        object.__setattr__(self, "label_words", {str(k): v for k, v in self.label_words.items()})

    @property
    def columns(self) -> tuple[str, ...]:
        return (*slots(self.template, self.name), self.label_column)

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.label_words)

    def of_line(self, line: str) -> Mapping[str, Any]:
        """`label text` in a line, as SST-5, TREC and others are released; for tasks that ask about one text."""
        texts = [column for column in self.columns if column != self.label_column]
        if len(texts) > 1:
            return super().of_line(line)
        label, _, text = line.partition(" ")
        return {self.label_column: label, texts[0]: text}

    def prompted_for(self, architecture: Architecture) -> Classification:
        super().prompted_for(architecture)
        if architecture == "masked" and self.masked_template is not None:
            return replace(self, template=self.masked_template)
        if architecture == "classifier":  # a head asks nothing, so no lead-in belongs there
            columns = " ".join(f"{{{column}}}" for column in slots(self.template, self.name))
            return replace(self, template=self.classifier_template or columns)
        return self

    def with_settings(
        self,
        template: str | None = None,
        label_words: Mapping[str, str] | None = None,
        label_column: str | None = None,
        target_column: str | None = None,
    ) -> Classification:
        changed = super().with_settings(template, label_words, label_column, target_column)
        if template is not None:  # a user's template serves every architecture, and names its own passage
            kept = self.passage_column if self.passage_column in slots(template, self.name) else None
            changed = replace(changed, masked_template=template, classifier_template=template, passage_column=kept)
        return changed

    def example(self, row: Mapping[str, Any], number: int, source: str = "") -> Example:
        where = f"{source}, row {number}" if source else f"row {number}"
        question = asked(self.template, row, where, self.passage_column)
        return Example(
            prompt=question.prompt,
            candidates=tuple(question.lead + word for word in self.label_words.values()),
            gold=self.labels.index(self.label(row, where)),
            row=number,
            source=source,
            passage=question.passage,
            suffix=question.suffix,
            group="" if self.group_column is None else str(column_value(row, self.group_column, where)),
        )

    def label(self, row: Mapping[str, Any], where: str) -> str:
        """The row's label as `label_words` names it; numbers and names of the Hub's class labels stand for each other.

        Raises:
            UsageError: it is none of them; names the row, the value and what is allowed.
        """
        value = column_value(row, self.label_column, where)
        text = str(value).lower() if isinstance(value, bool) else str(value).strip()
        if isinstance(value, float) and value.is_integer():
            text = str(int(value))
        names = self.label_names
        other = names[int(text)] if text.isdecimal() and int(text) < len(names) else text
        if text in names and text not in self.label_words:
            other = str(names.index(text))
        for spelling in (text, other):
            if spelling in self.label_words:
                return spelling
        raise UsageError(
            f"{where}: label {value!r} in column {self.label_column!r} is not among the label words; "
            f"allowed: {', '.join(self.labels)}"
        )


def check_label_words(words: Mapping[str, str]) -> None:
    """UsageError unless there are at least two words, none empty and no two the same."""
    if len(words) < 2:
        raise UsageError(f"label_words needs a word for each of at least two labels, but {dict(words)} was given")
    seen: dict[str, str] = {}
    for label, word in words.items():
        if not isinstance(word, str) or not word.strip():
            raise UsageError(f"label_words: the word of label {label!r} is empty or no text: {word!r}")
        if word.strip() in seen:
            raise UsageError(
                f"label_words: labels {seen[word.strip()]!r} and {label!r} share the word {word!r}; "
                "no model could tell them apart, so give each its own"
            )
        seen[word.strip()] = label
