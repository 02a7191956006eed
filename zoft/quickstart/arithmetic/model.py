"""The language model that can add: made once, kept in the cache beside the quickstart's."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from zoft.quickstart.arithmetic.world import WORDS, corpus, questions, vocabulary
from zoft.quickstart.model import Progress, keep

ENOUGH = 0.95  # share of all questions to which the most likely next word is the sum, in words or in figures
ATTEMPTS = 3  # seeds tried before giving up
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
    import torch
    import transformers

    from zoft.quickstart.pretrain import SPECIAL_WORDS, Pretraining

    recipe = {
        "corpus": corpus(),
        "vocabulary": [*SPECIAL_WORDS, *vocabulary()],
        "pretraining": asdict(Pretraining(batch_size=BATCH)),
        "bar": [ENOUGH, ATTEMPTS],
        "versions": [torch.__version__, transformers.__version__],
        "format": 1,
    }
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]


def _learn(progress: Progress) -> tuple[Any, Any, float, int]:
    """Model, tokenizer, share of right sums, seed: of the first seed that learns enough."""
    from zoft.quickstart.pretrain import Pretraining, read

    shares = []
    for seed in range(ATTEMPTS):
        setting = Pretraining(seed=seed, batch_size=BATCH)
        model, tokenizer = read(
            corpus(), vocabulary(), setting, lambda step, total=setting.steps: progress(step, total)
        )
        shares.append(right_share(model, tokenizer))
        if shares[-1] >= ENOUGH:
            return model, tokenizer, shares[-1], seed
    raise RuntimeError(
        f"the arithmetic language model gave the right sum to {shares} of its questions with seeds 0, 1, …; "
        f"{ENOUGH} is needed, so it is not used"
    )


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
