"""RTE: does a hypothesis follow from a premise?"""

from zoft.tasks.base import HubSource
from zoft.tasks.classification import Classification

RTE = Classification(
    name="rte",
    hub=HubSource("nyu-mll/glue", "rte"),  # the rows that SuperGLUE also uses
    aliases={"sentence1": "premise", "sentence2": "hypothesis"},
    template='{premise}\nFrom this, does it follow that "{hypothesis}"? Yes or No?\n{answer}',
    masked_template="{premise} Right? {answer}, {hypothesis}",
    passage_column="premise",
    label_words={"entailment": "Yes", "not_entailment": "No"},
    label_names=("entailment", "not_entailment"),
)
