"""SNLI: does a sentence follow from a picture's caption, contradict it, or neither?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from zoft.tasks.base import HubSource
from zoft.tasks.classification import Classification

UNDECIDED = ("-", -1, "-1")  # what stands for a label where the annotators did not agree


class Inference(Classification):
    """Rows without a label that the annotators agreed on are left out, as everywhere."""

    def unfolded(self, record: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        if record.get(self.label_column) not in UNDECIDED:
            yield record


PREMISE_AND_HYPOTHESIS = {
    "sentence1": "premise", "sentence2": "hypothesis", "text_a": "premise", "text_b": "hypothesis", "gold_label": "label"
}  # fmt: skip

SNLI = Inference(
    name="snli",
    hub=HubSource("stanfordnlp/snli", test="test"),
    aliases=PREMISE_AND_HYPOTHESIS,
    ragged="surplus_before_last",
    template='{premise}\nFrom this, does it follow that "{hypothesis}"? Yes, No or Maybe?\n{answer}',
    masked_template="{premise} Right? {answer}, {hypothesis}",
    passage_column="premise",
    label_words={"entailment": "Yes", "neutral": "Maybe", "contradiction": "No"},
    label_names=("entailment", "neutral", "contradiction"),
)
