"""Triton kernels of zeroth-order fine-tuning: weights moved along directions that are regenerated, never stored."""

from .axpby import axpby_
from .launch import Moves, Weights
from .sweep import sweep_

__all__ = ["Moves", "Weights", "axpby_", "sweep_"]
