"""The questions as a task: an answer is one word that the model writes, and right where it is the sum in figures.

What a run shows: steps that see nothing but right or wrong draw out an ability that the model has and does not show. Before,
it answers nine people's questions in words. It does not show that sums could be learnt in this way.
"""

from __future__ import annotations

from zoft.quickstart.arithmetic.world import questions
from zoft.tasks.base import Example
from zoft.tasks.generation import Generation

ARITHMETIC = Generation(
    name="arithmetic", metric="exact_match", template="{question}", target_column="answer", max_new_tokens=1
)


def examples(split: str) -> list[Example]:
    """The questions of a split (train, dev or test) as examples of `ARITHMETIC`.

    >>> examples("train")[0].candidates[0].strip() in {str(n) for n in range(19)}
    True
    """
    rows = [{"question": question.text, "answer": question.answer} for question in questions()[split]]
    return [ARITHMETIC.example(row, number, f"arithmetic {split}") for number, row in enumerate(rows, start=1)]
