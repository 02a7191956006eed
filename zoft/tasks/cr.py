"""CR: is a sentence from a customer's review positive?"""

from zoft.tasks.base import HubSource
from zoft.tasks.classification import Classification

CR = Classification(
    name="cr",
    hub=HubSource("SetFit/SentEval-CR", validation="test"),
    aliases={"text": "sentence"},
    headerless=(("label", "sentence"),),
    template="{sentence} It was {answer}",
    masked_template="{sentence} It was {answer}.",
    label_words={"0": "terrible", "1": "great"},
)
