"""The labelled task: a review, then ``it was``, then one of two words that the language model has never read.

The task is easy on purpose. The model has learned from unlabelled text which sentiment a review has; what it lacks is the
meaning of two words. So a run shows that forward passes alone, through every weight, are enough to bind them to what the
model knows; it does not show how far the method carries on a task that the model has yet to understand.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

from zoft.errors import UsageError
from zoft.quickstart.world import LABEL_WORDS, PROMPT_ENDING, build_world
from zoft.tasks.base import Example
from zoft.tasks.classification import Classification

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")

QUICKSTART = Classification(
    name="quickstart",
    template=f"{{review}} {PROMPT_ENDING} {{answer}}",
    label_words={str(sentiment): word for sentiment, word in enumerate(LABEL_WORDS)},
)

WHAT_IT_SHOWS = (
    "This task is easy: the small model had already learned, from text without labels, which reviews sound pleased and which "
    f"do not; it had never read the words {LABEL_WORDS[0]!r} and {LABEL_WORDS[1]!r}, hence about 50 % before. The run shows "
    "that steps made of forward passes alone, moving all weights, bind two new words to what a model knows. It does not show "
    "how the method does on harder tasks or on large models."
)


@lru_cache(maxsize=None)
def _reviews() -> dict[str, tuple[tuple[str, int], ...]]:
    world = build_world()
    splits = {"train": world.train, "dev": world.dev, "test": world.test}
    return {name: tuple((review.text, review.sentiment) for review in split) for name, split in splits.items()}


def rows(split: str) -> list[dict[str, str]]:
    """The split's rows, columns ``review`` and ``label`` ("0" or "1"), as a data file would hold them; half of each label.

    Raises:
        UsageError: a split that there is not.
    """
    if split not in SPLITS:
        raise UsageError(f"the quickstart has no split {split!r}; there are: {', '.join(SPLITS)}")
    return [{"review": text, "label": str(sentiment)} for text, sentiment in _reviews()[split]]


def examples(split: str) -> list[Example]:
    """The split as examples of `QUICKSTART`.

    >>> examples("train")[0].candidates
    (' terrible', ' great')
    """
    return [QUICKSTART.example(row, number, f"quickstart {split}") for number, row in enumerate(rows(split), start=1)]
