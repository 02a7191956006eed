"""A batch as many times below itself: the rows of every member of a population, one member after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

SHARED = ("outputs",)  # of the batches of `zoft.tasks.collate`: positions that are the same for all rows
COUNTED = ("candidate_rows",)  # of the same: numbers of rows; -1 for none


def rows_of(batch: Mapping[str, Any]) -> int:
    """R, the rows that a model is given of a batch: `input_ids` where there are any, otherwise its first tensor.

    >>> rows_of({"gold": torch.zeros(2), "input_ids": torch.zeros(4, 3)})
    4
    """
    first = next((value for value in batch.values() if isinstance(value, torch.Tensor) and value.ndim), None)
    rows = batch.get("input_ids", first)
    return 0 if rows is None else len(rows)


def repeated(batch: Mapping[str, Any], members: int) -> dict[str, Any]:
    """`batch` with each tensor [n, …] as [members n, …], member by member; what is no tensor stays.

    >>> once = {"input_ids": torch.tensor([[1], [2]]), "candidate_rows": torch.tensor([[1, 0], [1, -1]])}
    >>> {name: value.tolist() for name, value in repeated(once, 2).items()}
    {'input_ids': [[1], [2], [1], [2]], 'candidate_rows': [[1, 0], [1, -1], [3, 2], [3, -1]]}
    """
    rows = rows_of(batch)
    return {name: _repeated(name, value, members, rows) for name, value in batch.items()}


def _repeated(name: str, value: Any, members: int, rows: int) -> Any:
    if not isinstance(value, torch.Tensor) or not value.ndim or name in SHARED:
        return value
    many = value.repeat(members, *[1] * (value.ndim - 1))
    if name not in COUNTED:
        return many
    first = rows * torch.arange(members, device=value.device).repeat_interleave(len(value))
    return torch.where(many >= 0, many + first.view(-1, *[1] * (value.ndim - 1)), many)
