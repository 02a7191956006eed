"""Bounds of a zeroth-order step's numbers: one check for settings, Trainer's arguments and the optimizer. Imports no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

from zoft.errors import UsageError

MOST_DIRECTIONS = 4095  # in one step
SEEDS = 2**32
PREFIXES = "KMGT"  # of sizes, in steps of 1000, or of 1024 with an i


def check_positive(name: str, value: Any) -> None:
    """UsageError unless `value` is a finite number above 0."""
    if not (_real(value) and math.isfinite(value) and value > 0):
        raise UsageError(f"{name} must be a positive number, but {value!r} was given")


def check_not_negative(name: str, value: Any) -> None:
    """UsageError unless `value` is a finite number >= 0.

    >>> check_not_negative("weight_decay", float("nan"))
    Traceback (most recent call last):
    zoft.errors.UsageError: weight_decay must be a number >= 0, but nan was given
    """
    if not (_real(value) and math.isfinite(value) and value >= 0):
        raise UsageError(f"{name} must be a number >= 0, but {value!r} was given")


def check_directions(name: str, value: Any) -> None:
    """UsageError unless `value` is a number of directions that one step can have."""
    if not (_whole(value) and 1 <= value <= MOST_DIRECTIONS):
        raise UsageError(f"{name} must be a whole number between 1 and {MOST_DIRECTIONS}, but {value!r} was given")


def check_seed(name: str, value: Any) -> None:
    """UsageError unless `value` is a seed that the address of a random number has room for."""
    if not (_whole(value) and 0 <= value < SEEDS):
        raise UsageError(f"{name} must be a whole number between 0 and 2^32 - 1, but {value!r} was given")


def check_share(name: str, value: Any) -> None:
    """UsageError unless `value` can be the share of an average that outlives a step."""
    if not (_real(value) and 0.0 <= value < 1.0):
        raise UsageError(f"{name} is the share of the past that is kept and must lie in [0, 1), not {value!r}")


def check_count(name: str, value: Any, least: int = 1) -> None:
    """UsageError unless `value` is a whole number of at least `least`."""
    if not (_whole(value) and value >= least):
        raise UsageError(f"{name} must be at least {least}, a whole number, but {value!r} was given")


def size_in_bytes(name: str, text: str) -> int:
    """Bytes of such as 24GB or 24G; decimal units, as memory is sold, and those of 1024 as GiB. UsageError on anything else.

    >>> size_in_bytes("memory_budget", "24GB"), size_in_bytes("memory_budget", "1.5 m"), size_in_bytes("memory_budget", "8GiB")
    (24000000000, 1500000, 8589934592)
    """
    match = re.fullmatch(rf"(\d+(?:\.\d+)?)\s*([{PREFIXES}])(I?)B?", text.strip().upper())
    if match is None:
        raise UsageError(f"{name} must be a number and kB, MB, GB or TB, such as 24GB, but {text!r} was given")
    step = 1024 if match[3] else 1000
    return round(float(match[1]) * step ** (PREFIXES.index(match[2]) + 1))


def human_bytes(count: float, digits: int = 1) -> str:
    """Decimal units, so many digits after the point from kB on.

    >>> human_bytes(999), human_bytes(1_500), human_bytes(26_000_000_000), human_bytes(26_020_000_000, 2)
    ('999 bytes', '1.5 kB', '26.0 GB', '26.02 GB')
    """
    if count < 1000:
        return f"{count:.0f} bytes"
    value, unit = count / 1000, "kB"
    for larger in ("MB", "GB", "TB"):
        if round(value, digits) < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.{digits}f} {unit}"


def _real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


PANELS = ("jit", "lockstep")  # how read-only losses see displaced weights


def check_panels(panels: str, perturbation: str, row_budget: int | None) -> None:
    """Raises UsageError: no such way, one that in-place perturbation has no use for, or a budget that nothing would read."""
    if panels not in PANELS:
        raise UsageError(f"zo_panels {panels!r} does not exist; there are: {', '.join(PANELS)}")
    if panels == "lockstep" and perturbation != "read_only":
        raise UsageError(
            "zo_panels=lockstep shows every point of a step at once, which weights that are displaced themselves cannot: "
            f"take perturbation=read_only, not {perturbation}, or zo_panels=jit"
        )
    if row_budget is not None:
        check_count("zo_row_budget", row_budget)
        if panels != "lockstep":
            raise UsageError(
                f"zo_row_budget={row_budget} is of zo_panels=lockstep, and zo_panels={panels} takes one point at a time: "
                "leave it out, or set that"
            )


Excluded = Mapping[
    str, tuple[tuple[Any, ...], str]
]  # setting -> values that cannot be had, why and what to take instead


def check_excluded(settings: Mapping[str, Any], excluded: Excluded, by: str, *, otherwise: str = "") -> None:
    """Raises UsageError for the first setting, in the order of `excluded`, whose value something else rules out.

    Args:
        by: what does.
        otherwise: another way out, behind the reason.
    """
    for name, (values, reason) in excluded.items():
        if settings.get(name) in values:
            raise UsageError(f"{name}={settings[name]} cannot be had with {by}: {reason}{otherwise}")
