"""Metrics of answers in words: one answer against every text that counts as right, the best of them counting.

`exact_match` and `token_f1` are SQuAD's (Rajpurkar et al. 2016), which ReCoRD uses too; `drop_em` and `drop_f1` are DROP's
(Dua et al. 2019), where an answer may be several spans, written here as one text with `SPAN_JOINT` between them.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

SPAN_JOINT = "; "  # between the spans of one answer
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = frozenset(string.punctuation)


def normalised(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces.

    >>> normalised("The  Quick, brown fox's")
    'quick brown foxs'
    """
    bare = "".join(character for character in text.lower() if character not in _PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact_match(text: str, answers: Sequence[str]) -> float:
    """1 where the normalised text is one of the normalised answers.

    >>> exact_match("the Cat.", ["dog", "cat"])
    1.0
    """
    return float(any(normalised(text) == normalised(answer) for answer in answers))


def token_f1(text: str, answers: Sequence[str]) -> float:
    """F1 of the bags of words, 2 |both| / (|text| + |answer|), best over the answers; 0 where no word is shared.

    >>> token_f1("in the year 1999", ["1999", "the year 2000"])
    0.5
    """
    return max((_f1(normalised(text).split(), normalised(answer).split()) for answer in answers), default=0.0)


def _f1(said: Sequence[str], right: Sequence[str]) -> float:
    shared = sum((Counter(said) & Counter(right)).values())
    return 2 * shared / (len(said) + len(right)) if shared else 0.0


def drop_em(text: str, answers: Sequence[str]) -> float:
    """1 where the spans of the text are those of one answer, in any order.

    >>> drop_em("7.0 yards", ["7 yards"]), drop_em("Bob; Ann", ["Ann; Bob"])
    (1.0, 1.0)
    """
    return max((_drop(text, answer)[0] for answer in answers), default=0.0)


def drop_f1(text: str, answers: Sequence[str]) -> float:
    """Spans are paired one to one so that their F1 is largest; the mean is over the longer list, best over the answers.

    A pair counts nothing where the answer's span holds numbers and the text's holds none of them.

    >>> drop_f1("Ann", ["Ann; Bob"]), drop_f1("17 yards", ["18 yards"])
    (0.5, 0.0)
    """
    return max((_drop(text, answer)[1] for answer in answers), default=0.0)


def _drop(text: str, answer: str) -> tuple[float, float]:
    said, right = _spans(text), _spans(answer)
    exact = float(set(map(_drop_normalised, said)) == set(map(_drop_normalised, right)) and len(said) == len(right))
    said_bags = [set(_drop_normalised(span).split()) for span in said]
    right_bags = [set(_drop_normalised(span).split()) for span in right]
    scores = [[_bag_f1(a, b) for b in right_bags] for a in said_bags]
    return exact, round(_best_pairing(scores) / max(len(said), len(right)), 2)  # the official program rounds here too


def _spans(text: str) -> list[str]:
    return [span for span in text.split(SPAN_JOINT.strip()) if span.strip()] or [""]


def _bag_f1(said: set[str], right: set[str]) -> float:
    numbers = {word for word in right if _number(word) is not None}
    if numbers and not numbers & said:
        return 0.0
    shared = len(said & right)
    precision = shared / len(said) if said else 1.0
    recall = shared / len(right) if right else 1.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _best_pairing(scores: Sequence[Sequence[float]]) -> float:
    """Largest sum of entries with no two in one row or column, over all sets of used columns (the shorter side)."""
    if len(scores) < len(scores[0]):
        scores = list(zip(*scores, strict=True))
    best = {0: 0.0}  # bits of the columns that are taken -> largest sum
    for row in scores:
        found = dict(best)
        for taken, total in best.items():
            for column, score in enumerate(row):
                bit = 1 << column
                if score and not taken & bit:
                    found[taken | bit] = max(found.get(taken | bit, 0.0), total + score)
        best = found
    return max(best.values())


def _drop_normalised(text: str) -> str:
    """As `normalised`, word by word: hyphens part words, and a number keeps its point and becomes a float."""
    words = []
    for raw in re.split(r"[ -]", text.lower()):
        bare = raw if _number(raw) is not None else "".join(c for c in raw if c not in _PUNCTUATION)
        value = _number(bare)
        word = str(value) if value is not None else " ".join(_ARTICLES.sub(" ", bare).split())
        words.append(word)
    return " ".join(" ".join(words).split())


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None
