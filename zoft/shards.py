"""Parameters of which this process holds a part (FSDP2, `fully_shard`): its address, its memory, and the whole.

A shard is a run of rows of the whole parameter, so its window starts at its first global row: z is the same as in one process.
While a module runs, FSDP2 shows it the gathered weight; between a step's forwards and its write, everything must be sharded
again, or the next forward would read gathered copies of before the write (the root's stay after a forward without gradients).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from zoft.directions import Window
from zoft.errors import UnsupportedModuleError, UsageError


@dataclass(frozen=True, slots=True, eq=False)
class Shard:
    """Where the part that this process holds lies in its parameter."""

    parameter: Any  # DTensor
    whole: Window  # of the whole parameter

    def gathered(self, part: torch.Tensor) -> torch.Tensor:
        """The whole of a tensor that is cut like the parameter; all processes must call this."""
        from torch.distributed.tensor import DTensor

        mesh, placements = self.parameter.device_mesh, self.parameter.placements
        shape, stride = self.parameter.shape, self.parameter.stride()
        sent = part.detach()
        if part.element_size() == 2:
            sent = sent.view(torch.bfloat16)  # gloo carries no 16-bit integers; bits are only copied
        return DTensor.from_local(sent, mesh, placements, shape=shape, stride=stride).full_tensor().view(part.dtype)

    def shown(self, module: nn.Module, attribute: str, name: str) -> torch.Tensor:
        """The gathered weight that `module` is about to compute with.

        Raises:
            UnsupportedModuleError: it computes with its part (tensor parallelism).
        """
        weight = module._parameters[attribute]
        assert weight is not None
        if is_sharded(weight) or weight.shape != self.parameter.shape:
            raise UnsupportedModuleError(
                f"{name!r} is still cut into parts while its module runs, as with tensor parallelism, where a read-only "
                "perturbation cannot reach it; shard the model with FSDP2 (fully_shard) instead"
            )
        return weight.detach()


def is_sharded(weight: torch.Tensor) -> bool:
    return hasattr(weight, "placements") and hasattr(weight, "device_mesh")


def is_cut_itself(module: nn.Module) -> bool:
    """Whether `fully_shard` was applied to this very module: its weights are cut again before our hooks run."""
    from torch.distributed.fsdp import FSDPModule

    return isinstance(module, FSDPModule)


def part_of(name: str, weight: Any, stream: int, block: int = 0) -> tuple[torch.Tensor, Window, Shard]:
    """(this process's memory, its address, its place) of a sharded parameter.

    Raises:
        UsageError: it is not cut along its first dimension, once.
    """
    placements = weight.placements
    if len(placements) != 1 or not placements[0].is_shard(0):
        raise UsageError(
            f"{name!r} is laid out as {placements}, and only weights cut once along their first dimension can be "
            "trained; shard the model over one mesh dimension with fully_shard"
        )
    part = weight.to_local().detach()
    rows = weight.shape[0]
    first = min(-(-rows // weight.device_mesh.size()) * weight.device_mesh.get_local_rank(), rows)
    inner = math.prod(weight.shape[1:-1])  # matrix rows for each index of the first dimension
    whole = Window.whole(stream, weight.shape, block)
    return part, whole.panel(first * inner, (first + part.shape[0]) * inner), Shard(weight, whole)


def reshard(model: nn.Module) -> None:
    """Free all gathered copies: what is written to the parts then is what everybody reads next."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
