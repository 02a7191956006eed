"""Settings that name one of a few words, and settings that only some words read: checked where the dataclass is made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from difflib import get_close_matches
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from zoft.errors import UsageError


def check_choices(settings: Any) -> None:
    """Each field of the dataclass `settings` annotated `Literal[...]`, or `Literal[...] | None`, holds one of its words.

    Raises:
        UsageError: the first one that does not; it names the words and the nearest of them.
    """
    hints = get_type_hints(type(settings))
    for name in (field.name for field in fields(settings)):
        options = (hints[name],) if get_origin(hints[name]) is Literal else get_args(hints[name])
        words = [word for option in options if get_origin(option) is Literal for word in get_args(option)]
        value = getattr(settings, name)
        if not words or value in words or (value is None and NoneType in options):
            continue
        raise UsageError(
            f"{name} must be one of {', '.join(words)}, but {value!r} was given{nearest(str(value), words)}"
        )


# Setting -> (the setting whose word decides whether it is read, the words with which it is)
ReadBy = Mapping[str, tuple[str, tuple[str, ...]]]


def check_read(settings: Any, read_by: ReadBy) -> None:
    """Each setting in `read_by` that was changed is one that something reads.

    Raises:
        UsageError: the first one that nothing would read.
    """
    for name, (owner, words) in read_by.items():
        value, word = getattr(settings, name), getattr(settings, owner)
        if value != getattr(type(settings), name) and word not in words:
            raise UsageError(
                f"{name}={value} is of {owner}={' or '.join(words)}, and {owner}={word} does not read it: leave it out, or "
                f"set {owner}={words[0]}"
            )


def nearest(word: str, words: Iterable[str]) -> str:
    """A clause to append to an error, or an empty string when nothing is near.

    >>> nearest("Acuracy", ["accuracy", "f1"]), nearest("zzz", ["accuracy"])
    ('; did you mean accuracy?', '')
    """
    near = get_close_matches(word.lower(), list(words), n=1)
    return f"; did you mean {near[0]}?" if near else ""
