"""Sums that do not depend on order. Plain arithmetic."""

from __future__ import annotations

import math
from collections.abc import Iterable


def fsum(values: Iterable[float]) -> float:
    """`math.fsum`, the exactly rounded sum; infinite or NaN where IEEE addition is, instead of an exception.

    >>> fsum([1e100, 1.0, -1e100]), fsum([math.inf, 1.0]), fsum([math.inf, -math.inf]), fsum([1e308, 1e308])
    (1.0, inf, nan, inf)
    """
    values = list(values)
    try:
        return math.fsum(values)
    except (OverflowError, ValueError):  # a sum beyond the largest float; infinities of both signs
        return sum(values)


def mean(values: Iterable[float]) -> float:
    """The exactly rounded sum, divided once; NaN of nothing."""
    values = list(values)
    return fsum(values) / len(values) if values else math.nan
