"""Estimators by name."""

from __future__ import annotations

from typing import Any

from zoft.errors import UsageError
from zoft.estimators.base import Estimator
from zoft.estimators.two_point import TwoPoint

ESTIMATORS: dict[str, type[Estimator]] = {"two_point": TwoPoint}


def estimator(name: str, **settings: Any) -> Estimator:
    """The estimator `name` with its settings.

    Raises:
        UsageError: no such estimator.
    """
    if name not in ESTIMATORS:
        raise UsageError(f"estimator {name!r} does not exist; there are: {', '.join(ESTIMATORS)}")
    return ESTIMATORS[name](**settings)
