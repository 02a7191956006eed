"""The closing table of a run, as text."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(rows: Sequence[tuple[str, str]]) -> str:
    """One line a fact, names and values below each other.

    >>> print(aligned([("steps", "400"), ("picture", "run.png")]))
    steps    400
    picture  run.png
    """
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)
