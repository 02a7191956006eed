"""QNLI: does a sentence hold the answer to a question?"""

from zoft.tasks.base import HubSource
from zoft.tasks.classification import Classification

QNLI = Classification(
    name="qnli",
    hub=HubSource("nyu-mll/glue", "qnli"),
    aliases={"text_a": "question", "text_b": "sentence"},
    template='{sentence}\nDoes this answer the question "{question}"? Yes or No?\n{answer}',
    masked_template="{question} Right? {answer}, {sentence}",
    passage_column="sentence",
    label_words={"entailment": "Yes", "not_entailment": "No"},
    label_names=("entailment", "not_entailment"),
)
