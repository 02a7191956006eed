"""Metrics by name. Each takes outcomes, so that one table serves labels, choices among texts, and free text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from zoft.errors import UsageError
from zoft.metrics import labels, texts


@dataclass(frozen=True)
class Outcome:
    """What a model answered to one question, and what would have been right."""

    text: str = ""  # the answer in words
    answers: tuple[str, ...] = ()  # every answer that counts as right, in words
    predicted: int = -1  # number of the chosen candidate; -1: free text
    gold: int = -1  # number of the right candidate
    group: str = ""  # outcomes of one group are scored together, where a metric asks for it


Metric = Callable[[Sequence[Outcome]], float]


def _of_labels(measure: Callable[[list[int], list[int]], float]) -> Metric:
    return lambda outcomes: measure([o.predicted for o in outcomes], [o.gold for o in outcomes])


def _of_texts(measure: Callable[[str, Sequence[str]], float]) -> Metric:
    def mean(outcomes: Sequence[Outcome]) -> float:
        if not outcomes:
            raise UsageError("a metric of nothing has no value; give at least one example")
        return sum(measure(outcome.text, outcome.answers) for outcome in outcomes) / len(outcomes)

    return mean


def _accuracy(outcomes: Sequence[Outcome]) -> float:
    """Share of right answers; where several candidates count as right, any of them is."""
    right = [o.text in o.answers if o.answers else o.predicted == o.gold for o in outcomes]
    return labels.accuracy(right, [True] * len(right))


def _question_em(outcomes: Sequence[Outcome]) -> float:
    return labels.question_em(
        [o.predicted for o in outcomes], [o.gold for o in outcomes], [o.group or str(n) for n, o in enumerate(outcomes)]
    )


METRICS: Mapping[str, Metric] = {
    "accuracy": _accuracy,
    "f1": _of_labels(labels.f1),  # of the second label: "yes, they are the same" (MRPC, QQP), MultiRC's F1a
    "macro_f1": _of_labels(labels.macro_f1),  # CB, official
    "matthews": _of_labels(labels.matthews),  # CoLA
    "question_em": _question_em,  # MultiRC, official
    "exact_match": _of_texts(texts.exact_match),  # SQuAD, ReCoRD
    "token_f1": _of_texts(texts.token_f1),
    "drop_em": _of_texts(texts.drop_em),  # DROP, official
    "drop_f1": _of_texts(texts.drop_f1),
}


def metric(name: str) -> Metric:
    """The metric `name`.

    Raises:
        UsageError: no such metric.
    """
    if name not in METRICS:
        raise UsageError(f"metric {name!r} does not exist; there are: {', '.join(METRICS)}")
    return METRICS[name]
