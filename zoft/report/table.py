"""The closing table of a run: what it reached, how fast, and in how much memory."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Closing:
    """What a run ends with; None where it was not measured, which leaves the line out."""

    accuracy_before: float | None = None  # held out, in [0, 1]
    accuracy_after: float | None = None
    steps: int = 0
    seconds: float = 0.0  # of training, without evaluation where the caller could tell them apart
    zo_peak_bytes: int | None = None  # weights and all that a zeroth-order step makes beyond them
    adamw_peak_bytes: int | None = None  # the same of an AdamW step, same model and batch


def closing_table(closing: Closing) -> str:
    """The table as text, one line a fact, names and values aligned.

    >>> closing = Closing(0.5, 0.98, steps=400, seconds=8.0, zo_peak_bytes=2_000_000, adamw_peak_bytes=8_000_000)
    >>> print(closing_table(closing))
    held-out accuracy before   50.0 %
    held-out accuracy after    98.0 %
    steps                      400 in 8.0 s (50.0 a second)
    peak memory of a step      2.0 MB
    the same with AdamW        8.0 MB (4.0 times as much)
    """
    lines: list[tuple[str, str]] = []
    if closing.accuracy_before is not None:
        lines.append(("held-out accuracy before", f"{100 * closing.accuracy_before:.1f} %"))
    if closing.accuracy_after is not None:
        lines.append(("held-out accuracy after", f"{100 * closing.accuracy_after:.1f} %"))
    if closing.steps and closing.seconds > 0:
        rate = closing.steps / closing.seconds
        lines.append(("steps", f"{closing.steps} in {closing.seconds:.1f} s ({rate:.1f} a second)"))
    if closing.zo_peak_bytes is not None:
        lines.append(("peak memory of a step", human_bytes(closing.zo_peak_bytes)))
    if closing.adamw_peak_bytes is not None:
        compared = (
            f" ({closing.adamw_peak_bytes / closing.zo_peak_bytes:.1f} times as much)" if closing.zo_peak_bytes else ""
        )
        lines.append(("the same with AdamW", human_bytes(closing.adamw_peak_bytes) + compared))
    width = max((len(name) for name, _ in lines), default=0)
    return "\n".join(f"{name:<{width}}   {value}" for name, value in lines)


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
