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


def human_bytes(count: int) -> str:
    """Decimal units, one digit after the point from kB on.

    >>> human_bytes(999), human_bytes(1_500), human_bytes(26_000_000_000)
    ('999 bytes', '1.5 kB', '26.0 GB')
    """
    if count < 1000:
        return f"{count} bytes"
    value, unit = count / 1000, "kB"
    for larger in ("MB", "GB", "TB"):
        if value < 999.95:
            break
        value, unit = value / 1000, larger
    return f"{value:.1f} {unit}"
