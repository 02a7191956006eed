"""A verifiable reward: the last number in the answer is the number that was asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:/\d+)?")


def arithmetic(prompts: Sequence[str], outputs: Sequence[str], references: Sequence[tuple[str, ...]]) -> list[float]:
    """1 where the last number of an output equals the last number of a reference, else 0; thousands may have commas.

    >>> arithmetic(["2+3=", "1/2+1/4=", "7*2="], ["so 5", "0.75", "none"], [("5",), ("3/4",), ("14",)])
    [1.0, 1.0, 0.0]
    """
    return [
        float(any(_last_number(output) is not None and _last_number(output) == _last_number(right) for right in rights))
        for output, rights in zip(outputs, references, strict=True)
    ]


def _last_number(text: str) -> Fraction | None:
    found = _NUMBER.findall(text)
    if not found:
        return None
    top, _, bottom = found[-1].replace(",", "").partition("/")
    if bottom and int(bottom) == 0:
        return None
    return Fraction(top) / int(bottom or 1)
