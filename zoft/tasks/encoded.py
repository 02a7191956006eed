"""Examples as tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from zoft.tasks.base import Architecture, Example


class TokenRow(NamedTuple):
    """One sequence for the model."""

    ids: tuple[int, ...]
    answer: tuple[int, ...]  # positions of the answer's tokens


@dataclass(frozen=True)
class Encoded:
    """An example as tokens: one row per candidate, or one row for all of them.

    One row is enough when every candidate is a single token after the same tokens (then `choices` names them, and the
    row holds the prompt alone), in a masked LM, and for a classification head (`choices` are its outputs).
    """

    rows: tuple[TokenRow, ...]
    gold: int
    row: int  # of the example, for messages
    choices: tuple[int, ...] = ()  # candidate i is entry choices[i] of the output at read_at
    read_at: int = -1  # position in rows[0] whose output is read; -1: the last, or the model gives one output per row
    index: int = 0  # which example of its dataset this is

    @property
    def candidates(self) -> int:
        return len(self.choices) or len(self.rows)

    @property
    def length(self) -> int:
        """Tokens of the longest row."""
        return max(len(row.ids) for row in self.rows)

    def per_candidate(self) -> Encoded:
        """One row per candidate, for batches in which some example needs it. For causal models only."""
        if not self.choices:
            return self
        prompt = self.rows[0].ids
        rows = tuple(TokenRow((*prompt, token), (len(prompt),)) for token in self.choices)
        return Encoded(rows, self.gold, self.row, index=self.index)

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """The tokens before the answer: what free text is generated from."""
        row = self.rows[0]
        return row.ids[: row.answer[0]] if row.answer else row.ids


@dataclass(frozen=True)
class EncodedDataset(Sequence[Encoded]):
    """What a Trainer takes as a dataset (with `remove_unused_columns=False` and the `Collator`)."""

    items: tuple[Encoded, ...]
    architecture: Architecture
    shortened: int = 0  # examples that lost some of their passage
    notes: tuple[str, ...] = ()
    examples: tuple[Example, ...] = ()  # what the items were made of, in their order; none for plain text

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: Any) -> Any:
        return self.items[index]

    def __iter__(self) -> Iterator[Encoded]:
        return iter(self.items)

    @property
    def shortened_share(self) -> float:
        return self.shortened / len(self.items) if self.items else 0.0

    @property
    def max_candidates(self) -> int:
        return max((item.candidates for item in self.items), default=0)
