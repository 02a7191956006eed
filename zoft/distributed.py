"""What ranks tell each other: scalars, nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist

from zoft.errors import UsageError


def world_size() -> int:
    """The number of processes that train together; 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather(values: Sequence[float], device: torch.device) -> list[list[float]]:
    """The values of every rank, [world size][len(values)], the same list in the same order on all ranks.

    float64 on the wire: 8 bytes a value and rank. Every rank passes the same number of values.
    """
    if world_size() == 1:
        return [list(values)]
    mine = torch.tensor(values, dtype=torch.float64, device=device)
    everyone = [torch.empty_like(mine) for _ in range(world_size())]
    dist.all_gather(everyone, mine)
    return [row.tolist() for row in everyone]


def require_equal(value: float, what: str, device: torch.device) -> None:
    """Stop before training if the ranks do not start from the same place.

    Raises:
        UsageError: the value differs between ranks; the message names the first rank that differs from rank 0.
    """
    everyone = [row[0] for row in gather([value], device)]
    for rank, other in enumerate(everyone):
        if other != everyone[0] and not (other != other and everyone[0] != everyone[0]):
            raise UsageError(f"rank {rank} differs from rank 0 in its {what}: {other!r}, not {everyone[0]!r}")
