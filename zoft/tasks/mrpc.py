"""MRPC: do two sentences from the news say the same?"""

from zoft.tasks.base import HubSource
from zoft.tasks.classification import Classification

MRPC = Classification(
    name="mrpc",
    metric="f1",
    official=("accuracy",),
    hub=HubSource("nyu-mll/glue", "mrpc"),
    aliases={"#1 String": "sentence1", "#2 String": "sentence2", "Quality": "label", "text_a": "sentence1",
             "text_b": "sentence2"},
    template="{sentence1}\n{sentence2}\nDo both sentences say the same? Yes or No?\n{answer}",
    masked_template="{sentence1} {answer}, {sentence2}",
    label_words={"0": "No", "1": "Yes"},
    label_names=("not_equivalent", "equivalent"),
)  # fmt: skip
