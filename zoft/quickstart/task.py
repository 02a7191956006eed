"""The labelled task: a review, then ``it was``, then one of two words that the language model has never read.

The task is easy on purpose. The model has learned from unlabelled text which sentiment a review has; what it lacks
is the meaning of two words. So a run shows that forward passes alone, through every weight, are enough to bind them
to what the model knows; it does not show how far the method carries on a task that the model has yet to understand.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

from zoft.errors import UsageError
from zoft.quickstart.world import LABEL_WORDS, PROMPT_ENDING, build_world
from zoft.tasks.base import Example
from zoft.tasks.classification import Classification
from zoft.tasks.splits import Splits

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")

QUICKSTART = Classification(
    name="quickstart",
    template=f"{{review}} {PROMPT_ENDING} {{answer}}",
    label_words={str(sentiment): word for sentiment, word in enumerate(LABEL_WORDS)},
)

WHAT_IT_SHOWS = (
    "This task is easy: the small model had already learned, from unlabelled text, which reviews sound pleased "
    f"and which do not; it never read the words {LABEL_WORDS[0]!r} and {LABEL_WORDS[1]!r}, hence about 50 % before. "
    "The run shows that steps made of forward passes alone, moving all weights, bind two new words to what a model "
    "knows. It does not show how the method does on harder tasks or on large models."
)


@cache
def _reviews() -> dict[str, tuple[tuple[str, int], ...]]:
    world = build_world()
    splits = {"train": world.train, "dev": world.dev, "test": world.test}
    return {name: tuple((review.text, review.sentiment) for review in split) for name, split in splits.items()}


def rows(split: str) -> list[dict[str, str]]:
    """The split's rows as a data file would hold them: columns ``review`` and ``label`` ("0" or "1"), half of each.

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


def splits(num_train: int | None = None, num_dev: int | None = None, num_test: int | None = None) -> Splits:
    """The first so many examples of each split, None: all of them. An even number holds as many of each label.

    Raises:
        UsageError: more are asked for than there are, or fewer than one.
    """
    asked = {"train": num_train, "dev": num_dev, "test": num_test}
    parts = {split: tuple(examples(split)) for split in SPLITS}
    for split, number in asked.items():
        if number is not None and not 1 <= number <= len(parts[split]):
            raise UsageError(
                f"num_{split}={number}: the quickstart has 1 to {len(parts[split])} examples in its {split} split"
            )
    return Splits(parts["train"][:num_train], parts["dev"][:num_dev], parts["test"][:num_test])
