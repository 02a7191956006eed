"""A user's own classification data: the recipe gives the template and the label words."""

from __future__ import annotations

from collections.abc import Mapping

from zoft.errors import UsageError
from zoft.tasks.classification import Classification


def custom(
    template: str | None, label_words: Mapping[str, str] | None, label_column: str | None = None
) -> Classification:
    """The task that asks `template` and answers with `label_words`.

    >>> task = custom("{title}: {text}\\nTopic:", {"sport": "Sports", "biz": "Business"}, "topic")
    >>> example = task.example({"title": "Cup", "text": "They won.", "topic": "sport"}, 1)
    >>> example.prompt, example.candidates, example.gold
    ('Cup: They won.\\nTopic:', (' Sports', ' Business'), 0)

    Raises:
        UsageError: template or label words are missing or wrong.
    """
    if template is None or label_words is None:
        missing = " and ".join(n for n, v in (("template", template), ("label_words", label_words)) if v is None)
        example = "template='{text} It was' label_words={0: bad, 1: good}"
        raise UsageError(f"task custom needs {missing}, as in {example}")
    return Classification(
        name="custom", template=template, label_words=label_words, label_column=label_column or "label"
    )
