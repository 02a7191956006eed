"""From encoded examples to tensors: padded, with the few positions marked whose outputs are needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoft.tasks.base import Architecture
from zoft.tasks.encode import Encoded, EncodedDataset

if TYPE_CHECKING:
    import torch

IGNORED = -100  # label of a token that carries no loss
ABSENT = -1  # in place of a candidate that an example does not have


@dataclass(frozen=True)
class Collator:
    """Makes a batch of B examples; the keys depend on how many rows an example needs.

    One row each::

        gold            [B]     index of the right candidate
        index           [B]     which example of its dataset
        input_ids       [B, T]  padded to a multiple of 8, so that few lengths occur
        attention_mask  [B, T]
        choices         [B, C]  entry of the output that stands for each candidate; ABSENT where there is none
        read_at         [B]     masked LMs: position of the mask
        classes                 classification heads: in place of `choices`

    One row per candidate (R in all)::

        gold, index     [B]
        input_ids, attention_mask, labels [R, T]  labels: the answer's tokens, IGNORED elsewhere
        candidate_rows  [B, C]  row of each candidate; ABSENT where there is none
        outputs         [K]     positions t whose output predicts an answer's token t + 1 in some row

    `gold` comes first: Trainer takes the first tensor's length as the number of examples. C is the widest of the
    dataset, so that scores of all batches and processes have one shape.
    """

    pad_token_id: int
    max_candidates: int
    max_length: int | None = None  # rows never become longer by padding alone
    architecture: Architecture = "causal"
    multiple: int = 8

    @classmethod
    def of(cls, dataset: EncodedDataset, tokenizer: Any, max_length: int | None = None) -> Collator:
        """The collator that suits a dataset."""
        pad = tokenizer.pad_token_id
        pad = tokenizer.eos_token_id if pad is None else pad
        return cls(0 if pad is None else pad, dataset.max_candidates, max_length, dataset.architecture)

    @property
    def left(self) -> bool:
        """Pad on the left, so that answers end at the last position; encoders count positions from the left."""
        return self.architecture == "causal"

    def __call__(self, items: Sequence[Encoded]) -> dict[str, torch.Tensor]:
        if all(item.choices for item in items):
            return self._one_row_each(items)
        return self._row_per_candidate([item.per_candidate() for item in items])

    def _one_row_each(self, items: Sequence[Encoded]) -> dict[str, torch.Tensor]:
        import torch

        batch = {"gold": torch.tensor([item.gold for item in items])}
        batch |= {"index": torch.tensor([item.index for item in items])}
        batch |= self._padded([item.rows[0].ids for item in items])
        batch["classes" if self.architecture == "classifier" else "choices"] = self._candidates(
            [item.choices for item in items]
        )
        if items[0].read_at >= 0:
            width = batch["input_ids"].shape[1]
            offsets = [width - len(item.rows[0].ids) if self.left else 0 for item in items]
            batch["read_at"] = torch.tensor([i.read_at + offset for i, offset in zip(items, offsets, strict=True)])
        return batch

    def _row_per_candidate(self, items: Sequence[Encoded]) -> dict[str, torch.Tensor]:
        import torch

        rows = [row for item in items for row in item.rows]
        batch = {"gold": torch.tensor([item.gold for item in items])}
        batch |= {"index": torch.tensor([item.index for item in items])}
        batch |= self._padded([row.ids for row in rows])
        labels = torch.full_like(batch["input_ids"], IGNORED)
        for index, row in enumerate(rows):
            offset = labels.shape[1] - len(row.ids) if self.left else 0
            for position in row.answer:
                labels[index, offset + position] = row.ids[position]
        numbers, first = [], 0
        for item in items:
            numbers.append(range(first, first + len(item.rows)))
            first += len(item.rows)
        batch["labels"] = labels
        batch["candidate_rows"] = self._candidates(numbers)
        batch["outputs"] = (labels != IGNORED).any(dim=0).nonzero().flatten() - 1
        return batch

    def _padded(self, sequences: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        import torch

        longest = max(len(ids) for ids in sequences)
        width = -(-longest // self.multiple) * self.multiple
        if self.max_length is not None:
            width = max(longest, min(width, self.max_length))
        ids = torch.full((len(sequences), width), self.pad_token_id)
        mask = torch.zeros_like(ids)
        for index, sequence in enumerate(sequences):
            where = slice(width - len(sequence), width) if self.left else slice(0, len(sequence))
            ids[index, where] = torch.tensor(sequence)
            mask[index, where] = 1
        return {"input_ids": ids, "attention_mask": mask}

    def _candidates(self, entries: Sequence[Sequence[int]]) -> torch.Tensor:
        import torch

        width = max(self.max_candidates, *(len(entry) for entry in entries))
        return torch.tensor([[*entry, *[ABSENT] * (width - len(entry))] for entry in entries])
