"""QQP: do two questions ask the same?"""

from zoft.tasks.base import HubSource
from zoft.tasks.classification import Classification

QQP = Classification(
    name="qqp",
    metric="f1",
    official=("accuracy",),
    hub=HubSource("nyu-mll/glue", "qqp"),
    aliases={"is_duplicate": "label", "text_a": "question1", "text_b": "question2"},
    template="{question1}\n{question2}\nDo both questions ask the same? Yes or No?\n{answer}",
    masked_template="{question1} {answer}, {question2}",
    ragged="short_left_out",
    label_words={"0": "No", "1": "Yes"},
    label_names=("not_duplicate", "duplicate"),
)
