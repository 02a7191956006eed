"""MultiRC: is a candidate answer to a question about a paragraph right? Several may be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from zoft.tasks.base import HubSource
from zoft.tasks.classification import Classification


class _MultiRc(Classification):
    """A record of the released jsonl is a paragraph with its questions, and each of these has its answers."""

    def unfolded(self, record: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        passage = record.get("passage")
        if not isinstance(passage, Mapping):  # the Hub's rows hold one answer each
            index = record.get("idx")
            if isinstance(index, Mapping):
                yield {**record, "asked": f"{index.get('paragraph')}-{index.get('question')}"}
            else:
                yield record
            return
        for question in passage["questions"]:
            for answer in question["answers"]:
                yield {
                    "paragraph": passage["text"],
                    "question": question["question"],
                    "candidate": answer["text"],
                    "label": answer.get("label"),
                    "asked": f"{record.get('idx')}-{question['idx']}",
                }


MULTIRC = _MultiRc(
    name="multirc",
    official=("f1", "question_em"),
    hub=HubSource("aps/super_glue", "multirc"),
    aliases={"answer": "candidate"},
    template='{paragraph}\n{question}\nIs "{candidate}" a right answer? Yes or No?\n{answer}',
    masked_template='{paragraph} {question} "{candidate}" is a right answer: {answer}.',
    passage_column="paragraph",
    group_column="asked",
    label_words={"0": "No", "1": "Yes"},
    label_names=("false", "true"),
)
