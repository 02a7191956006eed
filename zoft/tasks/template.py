"""Prompt templates: text with ``{column}`` slots, and ``{answer}`` where the answer goes."""

from __future__ import annotations

import functools
import string
from collections.abc import Mapping
from typing import Any, NamedTuple

from zoft.errors import UsageError
from zoft.tasks.base import column_value

ANSWER = "answer"  # the slot of the template where the answer goes; without one it goes to the end
Pieces = tuple[tuple[str, str | None], ...]


class Asked(NamedTuple):
    """A template with a row's values in it."""

    prompt: str  # up to the answer, without the spaces before it
    lead: str  # those spaces: they belong to the answer
    passage: tuple[int, int]  # characters of the prompt
    suffix: str  # what follows the answer


def asked(template: str, row: Mapping[str, Any], where: str, passage_column: str | None) -> Asked:
    """The question that `template` makes of `row`.

    Spaces before the answer's slot belong to the answer, so that word and space are tokenised as the model saw them in
    running text; at the end of a template without the slot one space is assumed.
    """
    before, after = halves(template)
    prompt, passage = filled(before, row, where, passage_column)
    suffix, _ = filled(after, row, where, None)
    kept = prompt.rstrip(" ")
    lead = prompt[len(kept) :] or ("" if not kept or kept[-1].isspace() else " ")
    return Asked(kept, lead, (min(passage[0], len(kept)), min(passage[1], len(kept))), suffix)


@functools.cache
def parsed(template: str, name: str) -> tuple[tuple[str, str | None], ...]:
    """(literal text, slot after it or None) pairs."""
    try:
        return tuple((text, slot) for text, slot, _, _ in string.Formatter().parse(template))
    except ValueError as error:
        message = f"task {name}: the template {template!r} is broken ({error}); write {{{{ for a brace"
        raise UsageError(message) from None


def slots(template: str, name: str) -> list[str]:
    """The columns that `template` names, in order, without the answer's slot."""
    named = [slot for _, slot in parsed(template, name) if slot is not None]
    if named.count(ANSWER) > 1:
        raise UsageError(f"task {name}: the template {template!r} has more than one {{answer}} slot")
    columns = list(dict.fromkeys(slot for slot in named if slot != ANSWER))
    if not columns or "" in columns:
        raise UsageError(f"task {name}: the template {template!r} must name columns of the data, as in {{sentence}}")
    return columns


def halves(template: str) -> tuple[Pieces, Pieces]:
    """The template before and after the answer's slot."""
    pieces = parsed(template, "")
    for position, (text, slot) in enumerate(pieces):
        if slot == ANSWER:
            return (*pieces[:position], (text, None)), pieces[position + 1 :]
    return pieces, ()


def filled(
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
