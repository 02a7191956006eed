"""WSC: does a pronoun stand for a certain noun?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from zoft.tasks.base import HubSource
from zoft.tasks.classification import Classification


class _Wsc(Classification):
    """The released jsonl keeps both spans in an object of their own."""

    def unfolded(self, record: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        flat = {**record, **(record.get("target") or {})}
        if "span2_text" in flat:
            flat["pronoun"] = str(flat["span2_text"]).lower()
        yield flat


WSC = _Wsc(
    name="wsc",
    hub=HubSource("aps/super_glue", "wsc.fixed"),
    template='{text}\nIn this text, does "{pronoun}" mean {span1_text}? Yes or No?\n{answer}',
    masked_template='{text} Here "{pronoun}" means {span1_text}: {answer}.',
    passage_column="text",
    label_words={"false": "No", "true": "Yes"},
    label_names=("false", "true"),
)
