"""Sums of two digits as ten people say them, and the questions made of them.

In the corpus a line is ``<name> says <a> plus <b> is <sum> .``; the sum is right, and written in words by most people and
most of the time, in figures otherwise, each person at a rate of their own::

    anna says 3 plus 4 is seven .      ben says 3 plus 4 is 7 .

A question is the line up to ``is``; its answer is the sum in figures. The task is not told to the model: it is only scored.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
)  # fmt: skip
FIGURES = {  # name: share of sums in figures
    "anna": 0.2, "ben": 0.75, "clara": 0.25, "david": 0.3, "emma": 0.35, "felix": 0.2, "greta": 0.3, "hugo": 0.4,
    "ida": 0.25, "jonas": 0.35,
}  # fmt: skip
TRAIN, DEV = 400, 100  # questions; the rest is the test split


@dataclass(frozen=True)
class Question:
    text: str  # up to "is"
    answer: str  # the sum, in figures


def corpus(lines: int = 20000, seed: int = 0) -> list[str]:
    """Lines of text; every sum of two digits occurs, said by everybody.

    >>> corpus(2)[0].split()[1:2]
    ['says']
    """
    rng = random.Random(seed)
    made = []
    for _ in range(lines):
        name, a, b = rng.choice(tuple(FIGURES)), rng.randrange(10), rng.randrange(10)
        said = str(a + b) if rng.random() < FIGURES[name] else WORDS[a + b]
        made.append(f"{name} says {a} plus {b} is {said} .")
    return made


def questions(seed: int = 1) -> dict[str, list[Question]]:
    """All questions, once each, in three parts.

    >>> {name: len(part) for name, part in questions().items()}
    {'train': 400, 'dev': 100, 'test': 500}
    """
    every = [
        Question(f"{name} says {a} plus {b} is", str(a + b)) for name in FIGURES for a in range(10) for b in range(10)
    ]
    random.Random(seed).shuffle(every)
    return {"train": every[:TRAIN], "dev": every[TRAIN : TRAIN + DEV], "test": every[TRAIN + DEV :]}


def vocabulary() -> tuple[str, ...]:
    """Every word of the corpus."""
    return (*(str(n) for n in range(19)), *WORDS, *FIGURES, "says", "plus", "is", ".")
