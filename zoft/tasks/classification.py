"""Classification by label words: a template makes the prompt, each label has a word the model may say."""

from __future__ import annotations

import functools
import string
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from zoft.errors import UsageError
from zoft.tasks.base import Architecture, Example, Task, column_value

ANSWER = "answer"  # the slot of the template where the label word goes; without one it goes to the end


@dataclass(frozen=True)
class Classification(Task):
    """A template with ``{column}`` slots, and a label word for each label.

    ``{answer}`` marks where the word goes. Spaces before that slot belong to the word, so that word and space are
    tokenised as the model saw them in running text; at the end of a template without the slot one space is assumed.

    Raises:
        UsageError: a template that is not one, label words that are too few, empty or the same.
    """

    template: str = ""
    label_words: Mapping[str, str] = field(default_factory=dict)  # label as it stands in the data -> word
    label_column: str = "label"
    label_names: tuple[str, ...] = ()  # label number i, as the Hub stores it, is called label_names[i]
    masked_template: str | None = None  # for masked language models; None: `template`
    classifier_template: str | None = None  # for classification heads; None: the template's columns side by side
    passage_column: str | None = None  # shortened when a prompt is too long; None: the template's first

    def __post_init__(self) -> None:
        columns = _slots(self.template, self.name)
        if self.masked_template is not None:
            _slots(self.masked_template, self.name)
        if self.passage_column is None and columns:
            object.__setattr__(self, "passage_column", columns[0])
        check_label_words(self.label_words)
        object.__setattr__(self, "label_words", {str(k): v for k, v in self.label_words.items()})

    @property
    def columns(self) -> tuple[str, ...]:
        return (*_slots(self.template, self.name), self.label_column)

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.label_words)

    def prompted_for(self, architecture: Architecture) -> Classification:
        if architecture == "masked" and self.masked_template is not None:
            return replace(self, template=self.masked_template)
        if architecture == "classifier":  # a head asks nothing, so no lead-in belongs there
            columns = " ".join(f"{{{column}}}" for column in _slots(self.template, self.name))
            return replace(self, template=self.classifier_template or columns)
        return self

    def with_settings(
        self, template: str | None = None, label_words: Mapping[str, str] | None = None, label_column: str | None = None
    ) -> Classification:
        changed = super().with_settings(template, label_words, label_column)
        if template is not None:  # a user's template serves every architecture, and names its own passage
            kept = self.passage_column if self.passage_column in _slots(template, self.name) else None
            changed = replace(changed, masked_template=template, classifier_template=template, passage_column=kept)
        return changed

    def example(self, row: Mapping[str, Any], number: int, source: str = "") -> Example:
        where = f"{source}, row {number}" if source else f"row {number}"
        before, after = _halves(self.template)
        prompt, passage = _filled(before, row, where, self.passage_column)
        suffix, _ = _filled(after, row, where, None)
        kept = prompt.rstrip(" ")
        lead = prompt[len(kept) :] or ("" if not kept or kept[-1].isspace() else " ")
        return Example(
            prompt=kept,
            candidates=tuple(lead + word for word in self.label_words.values()),
            gold=self.labels.index(self.label(row, where)),
            row=number,
            source=source,
            passage=(min(passage[0], len(kept)), min(passage[1], len(kept))),
            suffix=suffix,
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


@functools.cache
def _parsed(template: str, name: str) -> tuple[tuple[str, str | None], ...]:
    """(literal text, slot after it or None) pairs."""
    try:
        return tuple((text, slot) for text, slot, _, _ in string.Formatter().parse(template))
    except ValueError as error:
        message = f"task {name}: the template {template!r} is broken ({error}); write {{{{ for a brace"
        raise UsageError(message) from None


def _slots(template: str, name: str) -> list[str]:
    """The columns that `template` names, in order, without the answer's slot."""
    slots = [slot for _, slot in _parsed(template, name) if slot is not None]
    if slots.count(ANSWER) > 1:
        raise UsageError(f"task {name}: the template {template!r} has more than one {{answer}} slot")
    columns = list(dict.fromkeys(slot for slot in slots if slot != ANSWER))
    if not columns or "" in columns:
        raise UsageError(f"task {name}: the template {template!r} must name columns of the data, as in {{sentence}}")
    return columns


Pieces = tuple[tuple[str, str | None], ...]


def _halves(template: str) -> tuple[Pieces, Pieces]:
    """The template before and after the answer's slot."""
    pieces = _parsed(template, "")
    for position, (text, slot) in enumerate(pieces):
        if slot == ANSWER:
            return (*pieces[:position], (text, None)), pieces[position + 1 :]
    return pieces, ()


def _filled(
    pieces: Pieces, row: Mapping[str, Any], where: str, passage_column: str | None
) -> tuple[str, tuple[int, int]]:
    """The text with its slots filled, and the characters that the passage's first occurrence takes."""
    text, passage = "", (0, 0)
    for literal, slot in pieces:
        text += literal
        if slot is None:
            continue
        value = str(column_value(row, slot, where)).strip()
        if slot == passage_column and passage == (0, 0):
            passage = (len(text), len(text) + len(value))
        text += value
    return text, passage
