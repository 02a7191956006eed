"""Objectives: what a batch costs, from forward passes alone."""

from zoft.objectives.base import Batch, Objective, Scored
from zoft.objectives.language_modelling import LanguageModelling
from zoft.objectives.likelihood import CandidateLikelihood
from zoft.objectives.table import OBJECTIVES, objective

__all__ = ["OBJECTIVES", "Batch", "CandidateLikelihood", "LanguageModelling", "Objective", "Scored", "objective"]
