"""MPQA: is a phrase from the news an opinion in favour, or against?"""

from zoft.tasks.base import HubSource
from zoft.tasks.classification import Classification

MPQA = Classification(
    name="mpqa",
    hub=HubSource("jxm/mpqa", validation="test"),
    aliases={"text": "sentence"},
    headerless=(("label", "sentence"),),
    template="{sentence} It was {answer}",
    masked_template="{sentence} It was {answer}.",
    label_words={"0": "terrible", "1": "great"},
)
