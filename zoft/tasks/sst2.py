"""SST-2: is a sentence from a film review positive?"""

from zoft.tasks.base import HubSource
from zoft.tasks.classification import Classification

SST2 = Classification(
    name="sst2",
    hub=HubSource("nyu-mll/glue", "sst2"),
    headerless=(("sentence", "label"),),
    template="{sentence} It was {answer}",
    masked_template="{sentence} It was {answer}.",
    label_words={"0": "terrible", "1": "great"},
    label_names=("0", "1"),
)
