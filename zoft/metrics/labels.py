"""Metrics of labels, in plain arithmetic: predictions and gold labels of equal length give a number."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import sqrt

from zoft.errors import UsageError

Labels = Sequence[Hashable]


def accuracy(predicted: Labels, gold: Labels) -> float:
    """Share of predictions that equal the gold label.

    >>> accuracy([0, 1, 1, 0], [0, 1, 0, 0])
    0.75
    """
    _check(predicted, gold)
    return sum(p == g for p, g in zip(predicted, gold, strict=True)) / len(gold)


def f1(predicted: Labels, gold: Labels, positive: Hashable = 1) -> float:
    """Harmonic mean of precision and recall of one label: 2 TP / (2 TP + FP + FN); 0 where it never occurs.

    >>> f1([1, 1, 0, 0], [1, 0, 1, 0])
    0.5
    """
    _check(predicted, gold)
    hits = sum(p == g == positive for p, g in zip(predicted, gold, strict=True))
    named = sum(p == positive for p in predicted) + sum(g == positive for g in gold)
    return 2 * hits / named if named else 0.0


def macro_f1(predicted: Labels, gold: Labels) -> float:
    """Mean F1 of the labels that occur, each counting the same.

    >>> macro_f1(["a", "a", "b"], ["a", "b", "b"])
    0.6666666666666666
    """
    _check(predicted, gold)
    labels = {*predicted, *gold}
    return sum(f1(predicted, gold, label) for label in labels) / len(labels)


def matthews(predicted: Labels, gold: Labels) -> float:
    """Matthews' correlation of any number of labels (Gorodkin 2004); 0 where either side is constant.

    With c the right predictions, s all of them, p_k and g_k how often label k is predicted and gold::

        (c s - sum_k p_k g_k) / sqrt((s^2 - sum_k p_k^2) (s^2 - sum_k g_k^2))

    >>> matthews([1, 0, 1, 0], [1, 0, 1, 0]), matthews([0, 1], [1, 0]), matthews([1, 1], [1, 0])
    (1.0, -1.0, 0.0)
    """
    _check(predicted, gold)
    right, all_of_them = sum(p == g for p, g in zip(predicted, gold, strict=True)), len(gold)
    labels = {*predicted, *gold}
    says = {label: sum(p == label for p in predicted) for label in labels}
    is_so = {label: sum(g == label for g in gold) for label in labels}
    covariance = right * all_of_them - sum(says[label] * is_so[label] for label in labels)
    spread = (all_of_them**2 - sum(n * n for n in says.values())) * (
        all_of_them**2 - sum(n * n for n in is_so.values())
    )
    return covariance / sqrt(spread) if spread else 0.0


def question_em(predicted: Labels, gold: Labels, groups: Labels) -> float:
    """Share of the groups in which every prediction is right: MultiRC's EM, a group being a question's answers.

    >>> question_em([1, 0, 1, 1], [1, 0, 1, 0], ["q1", "q1", "q2", "q2"])
    0.5
    """
    _check(predicted, gold)
    right: dict[Hashable, bool] = {}
    for p, g, group in zip(predicted, gold, groups, strict=True):
        right[group] = right.get(group, True) and p == g
    return sum(right.values()) / len(right)


def _check(predicted: Labels, gold: Labels) -> None:
    if len(predicted) != len(gold):
        raise UsageError(f"{len(predicted)} predictions were given for {len(gold)} labels; give one for each")
    if not gold:
        raise UsageError("a metric of nothing has no value; give at least one example")
