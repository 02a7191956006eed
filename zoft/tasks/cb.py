"""CB: is the speaker of a text committed to a clause in it?"""

from zoft.tasks.base import HubSource
from zoft.tasks.classification import Classification

CB = Classification(
    name="cb",
    official=("macro_f1",),
    num_dev=100,
    hub=HubSource("aps/super_glue", "cb"),
    template='{premise}\nGoing by this, is it true that "{hypothesis}"? Yes, No or Maybe?\n{answer}',
    masked_template="{premise} Right? {answer}, {hypothesis}",
    passage_column="premise",
    label_words={"entailment": "Yes", "contradiction": "No", "neutral": "Maybe"},
    label_names=("entailment", "contradiction", "neutral"),
)
