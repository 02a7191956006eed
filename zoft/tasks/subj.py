"""Subj: does a sentence tell of a film's plot, or what somebody thinks of it?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from zoft.tasks.base import HubSource
from zoft.tasks.classification import Classification


class _Subj(Classification):
    """Releases number the labels either way; where their names stand beside them, those are read."""

    def unfolded(self, record: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        yield {**record, self.label_column: record["label_text"]} if "label_text" in record else record


SUBJ = _Subj(
    name="subj",
    hub=HubSource("SetFit/subj", validation="test"),
    aliases={"text": "sentence"},
    headerless=(("label", "sentence"),),
    template="{sentence} This is {answer}",
    masked_template="{sentence} This is {answer}.",
    label_words={"0": "subjective", "1": "objective"},
    label_names=("subjective", "objective"),
)
