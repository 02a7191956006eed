"""Triton kernels of zeroth-order fine-tuning: weights moved along directions that are regenerated, never stored."""

from .axpby import axpby_
from .dot import dot
from .launch import INTERPRETED, Moves
from .panel_pair import panel_pair
from .perturbed_embedding import perturbed_embedding
from .perturbed_linear import perturbed_linear
from .sweep import Weights, sweep_

__all__ = [
    "INTERPRETED",
    "Moves",
    "Weights",
    "axpby_",
    "dot",
    "panel_pair",
    "perturbed_embedding",
    "perturbed_linear",
    "sweep_",
]
