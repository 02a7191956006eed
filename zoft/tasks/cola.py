"""CoLA: is a sentence acceptable English?"""

from zoft.tasks.base import HubSource
from zoft.tasks.classification import Classification

COLA = Classification(
    name="cola",
    metric="matthews",
    hub=HubSource("nyu-mll/glue", "cola"),
    headerless=(("source", "label", "mark", "sentence"), ("label", "sentence")),
    template="{sentence} This is {answer}",
    masked_template="{sentence} This is {answer}.",
    label_words={"0": "incorrect", "1": "correct"},
    label_names=("unacceptable", "acceptable"),
)
