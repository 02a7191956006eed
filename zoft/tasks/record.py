"""ReCoRD: which of the passage's entities belongs in the gap of a query?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from zoft.errors import UsageError
from zoft.tasks.base import Architecture, Example, HubSource, Task, column_value

GAP = "@placeholder"
HIGHLIGHT = "@highlight"


@dataclass(frozen=True)
class _Record(Task):
    objective: str = "language_modelling"
    architectures: tuple[Architecture, ...] = ("causal",)

    @property
    def columns(self) -> tuple[str, ...]:
        return ("passage", "query", "entities", "answers")

    def unfolded(self, record: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """A record of the released jsonl is a passage, its entities as positions, and several queries."""
        passage = record.get("passage")
        if not isinstance(passage, Mapping):
            yield record
            return
        text = passage["text"]
        entities = [text[span["start"] : span["end"] + 1] for span in passage["entities"]]
        for question in record["qas"]:
            answers = [answer["text"] for answer in question.get("answers") or ()]
            yield {"passage": text, "query": question["query"], "entities": entities, "answers": answers}

    def example(self, row: Mapping[str, Any], number: int, source: str = "") -> Example:
        where = f"{source}, row {number}" if source else f"row {number}"
        passage, query, entities, answers = (column_value(row, name, where) for name in self.columns)
        entities, answers = tuple(dict.fromkeys(entities)), tuple(dict.fromkeys(answers))
        before, gap, after = str(query).strip().partition(GAP)
        if not gap:
            raise UsageError(f"{where}: the query has no {GAP}")
        right = next((index for index, entity in enumerate(entities) if entity in answers), None)
        if right is None:
            raise UsageError(f"{where}: none of the answers {answers} is among the passage's {len(entities)} entities")
        text = "\n".join(part.strip() for part in str(passage).split(HIGHLIGHT)).replace("\n", "\n- ")
        prompt = f"{text}\n\n{before}".rstrip(" ")
        lead = " " if before.endswith(" ") else ""
        return Example(
            prompt=prompt,
            candidates=tuple(f"{lead}{entity}{after}" for entity in entities),
            gold=right,
            row=number,
            source=source,
            passage=(0, len(text)),
            answers=answers,
            names=entities,
        )


RECORD = _Record(name="record", official=("token_f1", "exact_match"), hub=HubSource("aps/super_glue", "record"))
