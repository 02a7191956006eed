"""Settings that name one of a few words: checked where the dataclass is made, whoever makes it."""

from __future__ import annotations

from collections.abc import Iterable
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


def nearest(word: str, words: Iterable[str]) -> str:
    """A clause to append to an error, or an empty string when nothing is near.

    >>> nearest("Acuracy", ["accuracy", "f1"]), nearest("zzz", ["accuracy"])
    ('; did you mean accuracy?', '')
    """
    near = get_close_matches(word.lower(), list(words), n=1)
    return f"; did you mean {near[0]}?" if near else ""
