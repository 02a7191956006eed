"""AG News: which section of the news does an article belong to?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from zoft.tasks.base import HubSource
from zoft.tasks.classification import Classification


class _AgNews(Classification):
    """The released csv counts its classes from 1 and parts title from text; elsewhere labels count from 0."""

    def unfolded(self, record: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        if "class" not in record:
            yield record
            return
        number = str(record["class"])
        label = str(int(number) - 1) if number.isdecimal() and number != "0" else number
        yield {**record, "text": f"{record.get('title', '')} {record.get('text', '')}", "label": label}


AGNEWS = _AgNews(
    name="agnews",
    hub=HubSource("fancyzhx/ag_news", validation="test"),
    headerless=(("class", "title", "text"), ("text", "label")),
    template="{text}\nThis is news about {answer}",
    masked_template="{answer} news: {text}",
    label_words={"World": "World", "Sports": "Sports", "Business": "Business", "Sci/Tech": "Tech"},
    label_names=("World", "Sports", "Business", "Sci/Tech"),
)
