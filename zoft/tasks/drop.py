"""DROP: a question about a passage that takes some counting or arithmetic; the answer is a number, a date or spans."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from zoft.metrics.texts import SPAN_JOINT
from zoft.tasks.base import HubSource
from zoft.tasks.generation import Generation


@dataclass(frozen=True)
class _Drop(Generation):
    """Three formats: the released json (passages by id), the Hub's rows, and rows of finished prompts with references.

    The Hub's rows do not tell the spans of one answer from the answers of several annotators, so each counts as right
    there, as in MeZO; `drop_f1` and `drop_em` are the official ones on the released json.
    """

    def records(self, document: Any) -> list[Any]:
        if isinstance(document, Mapping) and all(isinstance(value, Mapping) for value in document.values()):
            return list(document.values())
        return super().records(document)

    def unfolded(self, record: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        if "qa_pairs" in record:
            for pair in record["qa_pairs"]:
                answers = [pair["answer"], *(pair.get("validated_answers") or ())]
                texts = [text for text in map(_text, answers) if text]
                yield {"passage": record["passage"], "question": pair["question"], "answers": texts}
        elif "answers_spans" in record:
            yield {**record, "answers": list((record["answers_spans"] or {}).get("spans") or ())}
        elif "ref_text" in record:
            passage, _, question = str(record.get("context") or "").partition("\nQuestion:")
            yield {
                "passage": passage.removeprefix("Passage:"),
                "question": question.removesuffix("Answer:").strip(),
                "answers": [text for text in str(record["ref_text"]).split("|") if text.strip()],
            }
        else:
            yield record


def _text(answer: Mapping[str, Any]) -> str:
    """A number, or spans, or a date of those parts that are given."""
    if answer.get("number"):
        return str(answer["number"])
    if answer.get("spans"):
        return SPAN_JOINT.join(answer["spans"])
    date = answer.get("date") or {}
    return " ".join(date[part] for part in ("day", "month", "year") if date.get(part))


DROP = _Drop(
    name="drop",
    hub=HubSource("ucinlp/drop"),
    official=("drop_f1", "drop_em"),
    template="{passage}\n\nQ: {question}\nA: {answer}",
    passage_column="passage",
)
