"""Metrics: what a model answered, against what would have been right. Plain arithmetic; see table.py for the names."""

from zoft.metrics.labels import accuracy, f1, macro_f1, matthews, question_em
from zoft.metrics.table import METRICS, Metric, Outcome, metric
from zoft.metrics.texts import drop_em, drop_f1, exact_match, token_f1

__all__ = [
    "METRICS",
    "Metric",
    "Outcome",
    "accuracy",
    "drop_em",
    "drop_f1",
    "exact_match",
    "f1",
    "macro_f1",
    "matthews",
    "metric",
    "question_em",
    "token_f1",
]
