"""SST-5: how positive is a sentence from a film review, in five grades?"""

from zoft.tasks.base import HubSource
from zoft.tasks.classification import Classification

SST5 = Classification(
    name="sst5",
    hub=HubSource("SetFit/sst5", test="test"),
    aliases={"text": "sentence"},
    headerless=(("label", "sentence"),),
    template="{sentence} It was {answer}",
    masked_template="{sentence} It was {answer}.",
    label_words={"0": "terrible", "1": "bad", "2": "okay", "3": "good", "4": "great"},
)
