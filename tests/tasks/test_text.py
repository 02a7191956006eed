"""Plain text: each token is predicted exactly once."""

import pytest

from zoft.errors import UsageError
from zoft.tasks.collate import Collator
from zoft.tasks.text import encode_texts

TEXTS = ["the film is great", "a charming and often affecting journey . It was great " * 3]


@pytest.mark.parametrize("limit", [2, 7, 1000])
def test_every_token_is_predicted_once(causal_tokenizer, limit):
    dataset = encode_texts(TEXTS, causal_tokenizer, limit)
    for number, text in enumerate(TEXTS, start=1):
        ids = causal_tokenizer(text)["input_ids"]
        if causal_tokenizer.eos_token_id is not None and ids[-1] != causal_tokenizer.eos_token_id:
            ids = [*ids, causal_tokenizer.eos_token_id]
        pieces = [item.rows[0] for item in dataset if item.row == number]
        assert all(len(piece.ids) <= limit for piece in pieces)
        assert [piece.ids[t] for piece in pieces for t in piece.answer] == ids[1:]
    batch = Collator.of(dataset, causal_tokenizer, limit)(dataset.items)
    assert (batch["labels"] != -100).sum() == sum(len(item.rows[0].ids) - 1 for item in dataset)


def test_empty_texts_are_named(byte_level_tokenizer):
    with pytest.raises(UsageError, match="row 2: the text is empty"):
        encode_texts(["a", " "], byte_level_tokenizer, 10)
    with pytest.raises(UsageError, match="max_length=1"):
        encode_texts(["a"], byte_level_tokenizer, 1)
