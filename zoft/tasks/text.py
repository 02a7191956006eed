"""Plain text for language modelling: every token but the first carries the loss."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from zoft.errors import UsageError
from zoft.tasks.encoded import Encoded, EncodedDataset, TokenRow


def encode_texts(texts: Iterable[str], tokenizer: Any, max_length: int) -> EncodedDataset:
    """One example per text, or per piece of `max_length` tokens where a text is longer; nothing is thrown away.

    For the objective `language_modelling`. The end of sequence, where the tokenizer has one, closes each text.

    Raises:
        UsageError: a text without tokens (the message names its row), or a limit too small to predict anything.
    """
    if max_length < 2:
        raise UsageError(f"max_length={max_length}: a text needs two tokens, one to read and one to predict")
    end = tokenizer.eos_token_id
    items: list[Encoded] = []
    for row, text in enumerate(texts, start=1):
        ids = tokenizer(text, padding=False, truncation=False, verbose=False)["input_ids"]
        if end is not None and (not ids or ids[-1] != end):
            ids = [*ids, end]
        if not text.strip() or len(ids) < 2:
            raise UsageError(f"row {row}: the text is empty")
        # Pieces share one token: the last of a piece is read again, to predict the first of the next.
        for start in range(0, len(ids) - 1, max_length - 1):
            piece = tuple(ids[start : start + max_length])
            items.append(Encoded((TokenRow(piece, tuple(range(1, len(piece)))),), gold=0, row=row))
    return EncodedDataset(tuple(items), "causal")
