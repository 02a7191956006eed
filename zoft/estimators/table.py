"""Estimators by name."""

from __future__ import annotations

from typing import Any

from zoft.errors import UsageError
from zoft.estimators.base import Estimator
from zoft.estimators.conservative import Conservative
from zoft.estimators.es import RankedES, ZScoredES
from zoft.estimators.fzoo import FZOO
from zoft.estimators.one_sided import OneSided
from zoft.estimators.three_point import ThreePoint
from zoft.estimators.two_point import TwoPoint

_ALL = (TwoPoint, ThreePoint, OneSided, Conservative, FZOO, ZScoredES, RankedES)
ESTIMATORS: dict[str, type[Estimator]] = {made.name: made for made in _ALL}


def estimator(name: str, **settings: Any) -> Estimator:
    """The estimator `name` with its settings.

    Raises:
        UsageError: no such estimator.
    """
    if name not in ESTIMATORS:
        raise UsageError(f"estimator {name!r} does not exist; there are: {', '.join(ESTIMATORS)}")
    return ESTIMATORS[name](**settings)
