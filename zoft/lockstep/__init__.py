"""Lockstep: all points of a population go through the model as one batch, so that a weight is read once for all of them."""

from zoft.lockstep.loss import BatchLoss, TakenLoss
from zoft.lockstep.perturbation import Lockstep

__all__ = ["BatchLoss", "Lockstep", "TakenLoss"]
