"""Triton kernels of zeroth-order fine-tuning: weights moved along directions that are regenerated, never stored."""

from .axpby import axpby_
from .dot import dot
from .launch import INTERPRETED, Moves, key_of
from .panel_pair import panel_pair
from .perturbed_embedding import perturbed_embedding
from .perturbed_linear import perturbed_linear
from .sweep import WINDOW, Launch, Table, Weights, alike, launches, sweep_, tables

__all__ = [
    "INTERPRETED",
    "WINDOW",
    "Launch",
    "Moves",
    "Table",
    "Weights",
    "alike",
    "axpby_",
    "dot",
    "key_of",
    "launches",
    "panel_pair",
    "perturbed_embedding",
    "perturbed_linear",
    "sweep_",
    "tables",
]
