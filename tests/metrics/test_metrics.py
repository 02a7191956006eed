"""Every metric on miniatures whose value is worked out by hand."""

import pytest

from zoft.errors import UsageError
from zoft.metrics import METRICS, Outcome, metric


def choices(predicted, gold, groups=None):
    groups = groups or [""] * len(gold)
    return [Outcome(str(p), (), p, g, q) for p, g, q in zip(predicted, gold, groups, strict=True)]


def said(*pairs):
    return [Outcome(text, tuple(answers)) for text, answers in pairs]


CASES = {
    "accuracy": (choices([0, 1, 1, 0], [0, 1, 0, 0]), 3 / 4),
    # of label 1: 2 right, named 3 times, true 3 times
    "f1": (choices([1, 1, 1, 0, 0], [1, 1, 0, 1, 0]), 2 * 2 / 6),
    # CB: F1 is 2/3 (label 0), 0 (label 1), 1 (label 2)
    "macro_f1": (choices([0, 0, 2, 2], [0, 1, 2, 2]), (2 / 3 + 0 + 1) / 3),
    # CoLA: TP 2, TN 1, FP 1, FN 0: (2*1 - 1*0) / sqrt(3*2*2*1)
    "matthews": (choices([1, 1, 1, 0], [1, 1, 0, 0]), 2 / 12**0.5),
    # MultiRC: question a all right, b one of two wrong, c right
    "question_em": (choices([1, 0, 1, 1, 0], [1, 0, 1, 0, 0], ["a", "a", "b", "b", "c"]), 2 / 3),
    "exact_match": (said(("The Eiffel Tower.", ["eiffel tower"]), ("Paris", ["in Paris", "France"])), 0.5),
    # one word of two said, one of one right: 2*1/(2+1); nothing shared: 0; equal: 1
    "token_f1": (said(("blue whale", ["whale", "shark"]), ("x", ["y"]), ("A cat", ["cat"])), (2 / 3 + 0 + 1) / 3),
    # official rules: numbers as floats, articles and order of spans forgotten
    "drop_em": (said(("3,000 men", ["3000 men"]), ("Bob; the Ann", ["Ann; Bob"]), ("two", ["2"])), 2 / 3),
    # one span of two; a number missed; words shared besides the right number 2 * (2/3 * 1) / (2/3 + 1)
    "drop_f1": (
        said(("Bob", ["Ann; Bob"]), ("5 yards", ["6 yards"]), ("about 6.0 yards", ["6 yards"])),
        (0.5 + 0.8) / 3,
    ),
}


def test_every_metric_has_a_miniature():
    assert set(CASES) == set(METRICS)


@pytest.mark.parametrize("name", CASES)
def test_a_miniature_has_its_value(name):
    outcomes, value = CASES[name]
    assert metric(name)(outcomes) == pytest.approx(value, abs=1e-12)


def test_any_right_answer_counts():
    """ReCoRD: several entities are right; what counts is the text of the chosen one."""
    outcomes = [Outcome("Oslo", ("Oslo", "Norway"), predicted=3, gold=0), Outcome("Rome", ("Oslo",), 1, 1)]
    assert metric("accuracy")(outcomes) == 0.5


def test_drop_pairs_spans_so_that_the_sum_is_largest():
    (outcome,) = said(("new york city; york", ["york; new york"]))
    # york-york 1 and "new york city"-"new york" 0.8, not the greedy order of the texts
    assert metric("drop_f1")([outcome]) == pytest.approx(0.9)


def test_nothing_has_no_value():
    for measure in METRICS.values():
        with pytest.raises(UsageError, match="of nothing"):
            measure([])
