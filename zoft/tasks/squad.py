"""SQuAD 1.1: a passage, a question about it, and the answer in the passage's own words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from zoft.tasks.base import HubSource
from zoft.tasks.generation import Generation


@dataclass(frozen=True)
class _Squad(Generation):
    """Rows of the Hub hold one question; records of the released json hold an article with all of its paragraphs."""

    def unfolded(self, record: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        if "paragraphs" not in record:
            yield {**record, "answers": _texts(record.get("answers"))}
            return
        for paragraph in record["paragraphs"]:
            for question in paragraph["qas"]:
                yield {
                    "title": str(record.get("title") or "").replace("_", " "),
                    "context": paragraph["context"],
                    "question": question["question"],
                    "answers": _texts(question["answers"]),
                    "id": question.get("id"),
                }


def _texts(answers: Any) -> Any:
    """The texts alone; the Hub has `{"text": [...], "answer_start": [...]}`, the json a list of `{"text": ...}`."""
    if isinstance(answers, Mapping):
        return list(answers.get("text", ()))
    if isinstance(answers, list):
        return [answer["text"] if isinstance(answer, Mapping) else answer for answer in answers]
    return answers


SQUAD = _Squad(
    name="squad",
    hub=HubSource("rajpurkar/squad"),
    official=("exact_match",),
    template="{context}\n\nQ: {question}\nA: {answer}",
)
