"""A task's examples as tokens, for training and for evaluation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from zoft.tasks.base import Architecture, Example, Task
from zoft.tasks.encode import encode
from zoft.tasks.encoded import EncodedDataset
from zoft.tasks.plain_text import PlainText
from zoft.tasks.text import encode_texts

TEACHING = "language_modelling"


def encode_task(
    task: Task,
    examples: Iterable[Example],
    tokenizer: Any,
    max_length: int,
    architecture: Architecture = "causal",
    *,
    training: bool,
) -> EncodedDataset:
    """What the task's objective trains on, or what it is evaluated on.

    A task that teaches the right answer's text trains on that alone. A task whose answers are generated keeps room for
    them behind the prompt when it is evaluated.

    Raises:
        UsageError: as `zoft.tasks.encode.encode`.
    """
    if isinstance(task, PlainText):
        return encode_texts([example.candidates[0] for example in examples], tokenizer, max_length)
    gold_alone = task.generates or (training and task.objective == TEACHING)
    return encode(
        examples,
        tokenizer,
        max_length,
        architecture,
        answers="gold" if gold_alone else "candidates",
        reserve=task.max_new_tokens if task.generates and not training else 0,
    )
