"""Norms of 16-bit models, computed in float32 while losses are taken.

A norm's weights lie around 1, where bfloat16's grid is 2^-7 and a step of 2^-10 rounds away. They are few and belong to
modules that compute elementwise, so such a module can run in float32 for the time of its forward: its parameters' displaced
copies are float32, floating inputs are cast up, outputs back (where the module does not do that itself). What it hands on is
rounded once to 16 bits, each number by itself, so that the displacement arrives in the mean over tokens. The centre point takes
the same path, or second differences would compare two roundings.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from zoft.displaced import NARROW


def can_widen(module: nn.Module, trained: set[int]) -> bool:
    """A leaf whose parameters are all one-dimensional, in 16 bits and trained (ids), and that keeps no other 16-bit state."""
    own = [weight for weight in module._parameters.values() if weight is not None]
    return (
        bool(own)
        and not module._modules
        and all(weight.ndim == 1 and weight.dtype in NARROW and id(weight) in trained for weight in own)
        and not any(buffer is not None and buffer.is_floating_point() for buffer in module._buffers.values())
    )


def widens_itself(module: nn.Module, args: Any, kwargs: Any, *, own: bool = False) -> bool:
    """Does the module compute in float32, and round once, when only its weights are float32?

    torch's layer norm does on a CPU: that spares two casts, whose memory costs ten times what the norm itself does.

    Args:
        own: its class's forward will be called, whatever stands in for it now.
    """
    return (
        type(module) is nn.LayerNorm
        and (own or "forward" not in vars(module))
        and len(args) == 1
        and not kwargs
        and isinstance(args[0], torch.Tensor)
        and args[0].device.type == "cpu"
        and args[0].dtype in NARROW
    )


def widen(values: Any) -> Any:
    """16-bit tensors among nested arguments as float32."""
    return tree_map(lambda v: v.float() if isinstance(v, torch.Tensor) and v.dtype in NARROW else v, values)


def narrow(output: Any, dtype: torch.dtype | None) -> Any:
    """float32 tensors of an output in the 16-bit type that the module was given; as they are, if it was given none."""
    if dtype is None:
        return output
    return tree_map(lambda v: v.to(dtype) if isinstance(v, torch.Tensor) and v.dtype is torch.float32 else v, output)


def narrow_dtype(arguments: Any) -> torch.dtype | None:
    """The 16-bit type of the first floating tensor among nested arguments; None where that is wider, or there is none."""
    first = next((v for v in tree_leaves(arguments) if isinstance(v, torch.Tensor) and v.is_floating_point()), None)
    return first.dtype if first is not None and first.dtype in NARROW else None
