"""Finds what a CUDA graph cannot hold: operations that wait for the device, and values that come from the host."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from zoft.audit import tensors
from zoft.errors import UsageError

WAITS = {  # the host reads a number, or a size that depends on one
    "_local_scalar_dense", "equal", "nonzero", "nonzero_numpy", "masked_select", "_unique", "_unique2", "unique_dim",
    "unique_consecutive", "bincount", "histc", "linalg_eigvals",
}  # fmt: skip
BAKED = {"lift_fresh", "lift_fresh_copy"}  # numbers of Python made into a tensor: a graph would keep the first ones
HERE = Path(__file__).resolve().parent


class NoHost(TorchDispatchMode):
    """Inside, every operation stays on the device and depends on nothing but tensors that are there.

    Raises:
        UsageError: an operation that waits for the device, joins two devices or makes a tensor of Python's numbers; the
            message names it, the line that asked for it and what to do.
    """

    last = "nothing"  # operation that was begun

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        self.last = name
        if name in WAITS or (name == "repeat_interleave" and kwargs.get("output_size") is None):
            raise _refused(name, "makes the host wait for a number")
        if name in BAKED:
            raise _refused(name, "makes a tensor of numbers that Python holds")
        if name == "index" and any(_is_mask(index) for index in tensors(args[1:])):
            raise _refused(name, "picks by a mask, so that the host waits for a size")
        copies = name in ("_to_copy", "copy_")  # any other operation may read a scalar of the CPU's: a constant
        if copies and len(set(_places(args, kwargs))) > 1:  # before it is made: a GPU that captures would break off
            raise _refused(name, "has tensors on two devices")
        result = func(*args, **kwargs)
        if len({tensor.device for tensor in tensors((args, kwargs, result)) if tensor.ndim or copies}) > 1:
            raise _refused(name, "has tensors on two devices")
        return result


def _places(args: Any, kwargs: Any) -> Iterator[torch.device]:
    """Where a copy comes from, and where it goes."""
    yield from (tensor.device for tensor in tensors((args, kwargs)))
    if kwargs.get("device") is not None:
        wanted = torch.device(kwargs["device"])
        yield next((tensor.device for tensor in tensors(args) if _same(tensor.device, wanted)), wanted)


def _same(device: torch.device, wanted: torch.device) -> bool:
    """Whether a device is the one that was named, perhaps without its number."""
    return device.type == wanted.type and wanted.index in (None, device.index)


def _is_mask(index: torch.Tensor) -> bool:
    return index.dtype in (torch.bool, torch.uint8)


def _refused(operation: str, does: str) -> UsageError:
    return UsageError(
        f"this step cannot be repeated as a CUDA graph: {operation} {does}, at {_asker()}. Give the loss whatever it needs as "
        "tensors of the batch, make constants when the model is made, and no decision of values in tensors; or take "
        "ordinary steps"
    )


def _asker() -> str:
    """The innermost line that is neither torch's nor of this folder."""
    torch_home = Path(torch.__file__).resolve().parent
    for frame in reversed(traceback.extract_stack()):
        file = Path(frame.filename)
        if torch_home not in file.parents and HERE not in file.parents and file.exists():
            return f"{file.name}:{frame.lineno} ({frame.name})"
    return "an unknown line"
