"""In-context learning: solved examples in front of the question (Brown et al. 2020)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from zoft.errors import UsageError
from zoft.tasks.base import Example

BETWEEN = "\n\n"  # one blank line


def solved(example: Example) -> str:
    """The example as the model would have read it, the right answer in its place."""
    return example.prompt + example.candidates[example.gold] + example.suffix


def demonstrated(
    examples: Iterable[Example], shown: Sequence[Example], tokenizer: Any, max_length: int, reserve: int = 0
) -> tuple[list[Example], int]:
    """The examples with `shown` in front of each, and how many of them had to do with fewer.

    Where a text is too long for `max_length` tokens, whole demonstrations go, the first one first; the question's own
    passage is shortened only when none is left.

    Args:
        reserve: tokens that must find room behind the prompt, where an answer is to be generated.

    Raises:
        UsageError: a chat, whose template puts marks of its own around the text.
    """
    texts = [solved(example) for example in shown]
    asked, fewer = [], 0
    for example in examples:
        if not example.special:
            raise UsageError(f"{example.where}: demonstrations cannot stand in front of a chat; leave them out")
        first = 0
        while first < len(texts) and _tokens(_before(texts[first:]), example, tokenizer, reserve) > max_length:
            first += 1
        before = _before(texts[first:])
        fewer += first > 0
        start, stop = example.passage
        moved = (start + len(before), stop + len(before))
        asked.append(replace(example, prompt=before + example.prompt, passage=moved))
    return asked, fewer


def _before(texts: Sequence[str]) -> str:
    return "".join(text + BETWEEN for text in texts)


def _tokens(before: str, example: Example, tokenizer: Any, reserve: int) -> int:
    """The room that the example takes behind `before`: with its longest candidate, or with what is to be generated."""
    answers = ("",) if reserve else example.candidates
    read = tokenizer([before + example.prompt + answer + example.suffix for answer in answers])["input_ids"]
    return max(len(ids) for ids in read) + reserve
