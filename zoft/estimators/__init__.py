"""From losses to a zeroth-order gradient."""

from zoft.estimators.base import Estimator
from zoft.estimators.table import ESTIMATORS, estimator

__all__ = ["ESTIMATORS", "Estimator", "estimator"]
