"""TREC: what kind of thing does a question ask for?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from zoft.tasks.base import HubSource
from zoft.tasks.classification import Classification

KINDS = {
    "DESC": "Description",
    "ENTY": "Entity",
    "ABBR": "Expression",
    "HUM": "Human",
    "LOC": "Location",
    "NUM": "Number",
}


class _Trec(Classification):
    """Released labels read `DESC:manner`, of which the coarse part is asked for."""

    def unfolded(self, record: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        label = record.get("label_coarse_original", record.get(self.label_column))
        yield {**record, self.label_column: label.split(":")[0] if isinstance(label, str) else label}


TREC = _Trec(
    name="trec",
    hub=HubSource("SetFit/TREC-QC", validation="test"),
    aliases={"text": "question"},
    headerless=(("label", "question"),),
    template="{question}\nThe answer is of the kind {answer}",
    masked_template="{answer}: {question}",
    label_words=KINDS,
    label_names=tuple(KINDS),  # as the k-shot files of LM-BFF count them
)
