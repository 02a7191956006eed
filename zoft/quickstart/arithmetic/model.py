"""The language model that can add: made once, kept in the cache beside the quickstart's."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from zoft.quickstart.arithmetic.world import WORDS, corpus, questions, vocabulary
from zoft.quickstart.model import Progress, digest_of, first_good, keep

BATCH = 64  # lines


def prepare(cache_dir: str | os.PathLike[str] | None = None, progress: Progress | None = None) -> Path:
    """The folder of the model, built first where it is missing or damaged; as `zoft.quickstart.model.keep`.

    Raises:
        UsageError: the cache cannot be written.
        RuntimeError: no attempt learned to add.
    """
    return keep("arithmetic", _digest(), _learn, cache_dir, progress)


def _digest() -> str:
    """Twelve hex digits over all that decides the model's bytes: corpus, vocabulary, settings, versions."""
    from zoft.quickstart.pretrain import SPECIAL_WORDS, Pretraining

    recipe = {
        "corpus": corpus(),
        "vocabulary": [*SPECIAL_WORDS, *vocabulary()],
        "pretraining": asdict(Pretraining(batch_size=BATCH)),
        "format": 1,
    }
    return digest_of(recipe)


def _learn(progress: Progress) -> tuple[Any, Any, float, int]:
    """Model, tokenizer, share of right sums, seed: of the first seed that learns enough."""
    from zoft.quickstart.pretrain import Pretraining, read

    def attempt(seed: int) -> tuple[Any, Any, float]:
        setting = Pretraining(seed=seed, batch_size=BATCH)
        model, tokenizer = read(corpus(), vocabulary(), setting, lambda step: progress(step, setting.steps))
        return model, tokenizer, right_share(model, tokenizer)

    return first_good(attempt, "the arithmetic language model gave the right sum to {} of its questions")


def right_share(model: Any, tokenizer: Any, words: bool = True) -> float:
    """Share, in [0, 1], of all questions to which the most likely next word is the sum.

    Args:
        words: a sum in words counts too, not in figures alone.
    """
    from zoft.quickstart.pretrain import next_words

    asked = [question for part in questions().values() for question in part]
    said = next_words(model, tokenizer, [question.text for question in asked])
    right = [
        word == question.answer or (words and word == WORDS[int(question.answer)])
        for word, question in zip(said, asked, strict=True)
    ]
    return sum(right) / len(right)
