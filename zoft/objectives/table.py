"""Objectives by name."""

from __future__ import annotations

from zoft.errors import UsageError
from zoft.objectives.base import Objective
from zoft.objectives.language_modelling import LanguageModelling
from zoft.objectives.likelihood import CandidateLikelihood

OBJECTIVES: dict[str, type[Objective]] = {kind.name: kind for kind in (CandidateLikelihood, LanguageModelling)}


def objective(name: str) -> Objective:
    """The objective `name`.

    Raises:
        UsageError: no such objective.
    """
    if name not in OBJECTIVES:
        raise UsageError(f"objective {name!r} does not exist; there are: {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name]()
