"""BoolQ: a yes or no question about a passage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from zoft.tasks.base import HubSource
from zoft.tasks.classification import Classification


class _BoolQ(Classification):
    """Questions are released in small letters and without their mark; labels as `label`, on the Hub as `answer`."""

    def unfolded(self, record: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        question = str(record.get("question") or "").strip()
        asked = question[:1].upper() + question[1:] + ("" if question.endswith("?") else "?")
        yield {**record, "question": asked} if question else record


BOOLQ = _BoolQ(
    name="boolq",
    hub=HubSource("google/boolq"),
    aliases={"answer": "label"},
    template="{passage}\n{question}\n{answer}",
    masked_template="{passage} {question} {answer}.",
    passage_column="passage",
    label_words={"false": "No", "true": "Yes"},
    label_names=("false", "true"),
)
