"""Parameters of which this process holds a part (FSDP2, tensor parallelism): its address, its memory, and the whole.

A shard is a run of rows of the whole parameter, or with tensor parallelism of columns; its window starts at its first global
row or column, so z is the same as in one process. While a module runs, FSDP2 shows it the gathered weight, and tensor
parallelism the part. With FSDP2, between a step's forwards and its write, everything must be sharded
again, or the next forward would read gathered copies of before the write (the root's stay after a forward without gradients).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from zoft.directions import Window
from zoft.errors import UsageError


@dataclass(frozen=True, slots=True, eq=False)
class Shard:
    """Where the part that this process holds lies in its parameter."""

    parameter: Any  # DTensor
    whole: Window  # of the whole parameter

    @property
    def part(self) -> torch.Tensor:
        """The part of the parameter that this process holds now."""
        return self.parameter.to_local().detach()

    def gathered(self, part: torch.Tensor) -> torch.Tensor:
        """The whole of a tensor that is cut like the parameter; all processes must call this."""
        from torch.distributed.tensor import DTensor

        mesh, placements = self.parameter.device_mesh, self.parameter.placements
        shape, stride = self.parameter.shape, self.parameter.stride()
        sent = part.detach()
        if part.element_size() == 2:
            sent = sent.view(torch.bfloat16)  # gloo carries no 16-bit integers; bits are only copied
        return DTensor.from_local(sent, mesh, placements, shape=shape, stride=stride).full_tensor().view(part.dtype)

    def shown(self, module: nn.Module, attribute: str) -> torch.Tensor | None:
        """The gathered weight that `module` is about to compute with; None: it computes with its part."""
        weight = module._parameters[attribute]
        assert weight is not None
        return None if is_sharded(weight) or weight.shape != self.parameter.shape else weight.detach()

    def like(self, part: torch.Tensor) -> torch.Tensor:
        """`part`, of the shape of this process's, as a tensor that is cut like the parameter."""
        from torch.distributed.tensor import DTensor

        whole = self.parameter
        return DTensor.from_local(
            part, whole.device_mesh, whole.placements, run_check=False, shape=whole.shape, stride=whole.stride()
        )


def is_sharded(weight: torch.Tensor) -> bool:
    return hasattr(weight, "placements") and hasattr(weight, "device_mesh")


def is_cut_itself(module: nn.Module) -> bool:
    """Whether `fully_shard` was applied to this very module, so that its own hooks gather and cut the weights."""
    from torch.distributed.fsdp import FSDPModule

    return isinstance(module, FSDPModule)


def check_tied(name: str, weight: Any, holders: Sequence[nn.Module]) -> None:
    """Raises UsageError where two FSDP2 groups each keep a padded copy of their own of one tied weight.

    Seen with Transformers 5.23, whose plan gives an embedding a group of its own and leaves the tied head to the root's.
    """
    rows, processes = weight.shape[0], weight.device_mesh.size()
    if len(holders) > 1 and rows % processes and any(map(is_cut_itself, holders)):
        raise UsageError(
            f"{name!r} is tied, and its {rows} rows are not a multiple of the {processes} processes: FSDP2 as Transformers "
            "applies it would keep two padded copies of them, of which updates reach one; resize_token_embeddings(…, "
            f"pad_to_multiple_of={processes}), or shard the model with fully_shard by its blocks"
        )


def part_of(name: str, weight: Any, stream: int, block: int = 0) -> tuple[torch.Tensor, Window, Shard]:
    """(this process's memory, its address, its place) of a sharded parameter.

    Raises:
        UsageError: it is cut more than once, or along a dimension that is neither the first nor a matrix's second.
    """
    whole, part = Window.whole(stream, weight.shape, block), weight.to_local().detach()
    placements, mesh = weight.placements, weight.device_mesh
    cut = placements[0]
    if len(placements) == 1 and cut.is_replicate():
        return part, whole, Shard(weight, whole)
    if len(placements) == 1 and type(cut).__name__ == "Shard" and (cut.dim == 0 or (cut.dim, weight.ndim) == (1, 2)):
        size = weight.shape[cut.dim]
        first = min(-(-size // mesh.size()) * mesh.get_local_rank(), size)
        if cut.dim == 1:
            return part, replace(whole, column=first, columns=part.shape[1]), Shard(weight, whole)
        inner = math.prod(weight.shape[1:-1])  # matrix rows for each index of the first dimension
        return part, whole.panel(first * inner, (first + part.shape[0]) * inner), Shard(weight, whole)
    raise UsageError(
        f"{name!r} is laid out as {placements}, and only weights cut once, along their rows or a matrix's columns, can be "
        "trained; shard the model over one mesh dimension (FSDP2 or tensor parallelism, not both)"
    )


def reshard(model: nn.Module) -> None:
    """Free all gathered copies: what is written to the parts then is what everybody reads next."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
