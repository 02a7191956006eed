"""MR: is a sentence from a film review (Rotten Tomatoes) positive?"""

from zoft.tasks.base import HubSource
from zoft.tasks.classification import Classification

MR = Classification(
    name="mr",
    hub=HubSource("cornell-movie-review-data/rotten_tomatoes", test="test"),
    aliases={"text": "sentence"},
    headerless=(("label", "sentence"),),
    template="{sentence} It was {answer}",
    masked_template="{sentence} It was {answer}.",
    label_words={"0": "terrible", "1": "great"},
    label_names=("neg", "pos"),
)
