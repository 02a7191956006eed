"""A user's own data: the recipe gives the template, and either label words or the column with the answer."""

from __future__ import annotations

from collections.abc import Mapping

from zoft.errors import UsageError
from zoft.tasks.base import Task
from zoft.tasks.classification import Classification
from zoft.tasks.generation import Generation

EXAMPLE = "template='{text} It was' label_words='{0: bad, 1: good}'"  # for a shell


def custom(
    template: str | None,
    label_words: Mapping[str, str] | None,
    label_column: str | None = None,
    target_column: str | None = None,
) -> Task:
    """The task that asks `template` and answers with one of `label_words`, or in the words of `target_column`.

    >>> task = custom("{title}: {text}\\nTopic:", {"sport": "Sports", "biz": "Business"}, "topic")
    >>> example = task.example({"title": "Cup", "text": "They won.", "topic": "sport"}, 1)
    >>> example.prompt, example.candidates, example.gold
    ('Cup: They won.\\nTopic:', (' Sports', ' Business'), 0)
    >>> custom("{text} In short:", None, target_column="summary").example({"text": "Long.", "summary": "S."}, 1).candidates
    (' S.\\n',)

    Raises:
        UsageError: template, label words or target column are missing, wrong or too many.
    """
    if label_words is not None and target_column is not None:
        raise UsageError("task custom takes label_words (one word a label) or target_column (free text), not both")
    if template is not None and target_column is not None:
        if label_column is not None:
            raise UsageError("label_column belongs to label_words; with target_column leave it out")
        return Generation(name="custom", template=template, target_column=target_column, official=("exact_match",))
    if template is None or label_words is None:
        missing = [n for n, v in (("template", template), ("label_words or target_column", label_words)) if v is None]
        raise UsageError(f"task custom needs {' and '.join(missing)}, as in {EXAMPLE}")
    return Classification(
        name="custom", template=template, label_words=label_words, label_column=label_column or "label"
    )
