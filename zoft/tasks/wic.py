"""WiC: does a word mean the same in two sentences?"""

from zoft.tasks.base import HubSource
from zoft.tasks.classification import Classification

WIC = Classification(
    name="wic",
    hub=HubSource("aps/super_glue", "wic"),
    template='{sentence1}\n{sentence2}\nDoes "{word}" mean the same in both sentences? Yes or No?\n{answer}',
    masked_template='{sentence1} {sentence2} "{word}" means the same in both: {answer}.',
    label_words={"false": "No", "true": "Yes"},
    label_names=("false", "true"),
)
