"""Peak memory of a piece of work, in bytes of tensors.

On CUDA the allocator counts. On a CPU the resident set of a process moves in steps far larger than a small model,
and keeps what was freed; so the storages themselves are counted: every tensor that an operator returns is seen by a
dispatch mode, each storage counts once however many views it has, from the operator that made it until the storage
is freed. What autograd saves, gradients and an optimizer's state are such tensors too, whoever holds them.

Not counted on a CPU: scratch memory inside one operator, and Python's own objects.
"""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class StorageCounter(TorchDispatchMode):
    """Counts the bytes of live storages that were made while it is active; views and aliases count once."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.live_bytes = 0
        self.peak_bytes = 0
        self._sizes: dict[int, int] = {}  # key of a storage seen while active -> bytes counted for it
        self._known: set[int] = set()  # storages that were there before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        fresh = func is torch.ops.aten.lift_fresh.default  # torch.tensor(...) shows up as this operator's argument
        for leaf in tree_leaves((args, kwargs)):  # any other argument that was not seen yet was made before
            if isinstance(leaf, torch.Tensor):
                self._watch(leaf, before=not fresh)
        result = func(*args, **kwargs)
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._watch(leaf, before=False)
        return result

    def _watch(self, tensor: torch.Tensor, before: bool) -> None:
        if tensor.layout is not torch.strided or tensor.device != self.device:
            return
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        if key in self._sizes:
            self._add(size - self._sizes[key])  # resize_ may have changed it
            self._sizes[key] = size
            return
        weakref.finalize(storage, self._freed, key).atexit = False
        if before:
            self._known.add(key)
        else:
            self._sizes[key] = size
            self._add(size)

    def _freed(self, key: int) -> None:
        self._known.discard(key)
        self.live_bytes -= self._sizes.pop(key, 0)

    def _add(self, size: int) -> None:
        self.live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)


def peak_tensor_bytes(work: Callable[[], Any], device: torch.device | str = "cpu") -> int:
    """The most bytes of tensors alive at one time that `work` made, beyond what existed before it.

    Args:
        work: called once; what it returns is dropped.
        device: where its tensors live; tensors elsewhere are not counted.

    Returns:
        Bytes: counted storages on a CPU, the allocator's peak on CUDA.

    >>> peak_tensor_bytes(lambda: (torch.zeros(1000) + 1).sum())
    8000
    """
    where = torch.device(device)
    if where.type == "cuda":
        torch.cuda.synchronize(where)
        torch.cuda.reset_peak_memory_stats(where)
        before = torch.cuda.memory_allocated(where)
        work()
        torch.cuda.synchronize(where)
        return torch.cuda.max_memory_allocated(where) - before
    counter = StorageCounter(where)
    with counter:
        work()
    return counter.peak_bytes


def weight_bytes(model: nn.Module) -> int:
    """Bytes of the parameters, tied ones once."""
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())


def zo_step_bytes(
    model: nn.Module,
    loss: Callable[..., torch.Tensor],
    as_set: bool = False,
    batch: Mapping[str, Any] | None = None,
    **settings: Any,
) -> int:
    """Peak bytes of a zeroth-order step on the model's device: its weights and all that two steps make beyond them.

    Args:
        model: left as it is; a copy takes the steps.
        loss: of the copy, its loss on a batch, the same for every call; where there is a `batch`, of the copy and a batch, the
            losses of the examples [B], as `panels="lockstep"` needs them.
        as_set: train what requires gradients in `model`; otherwise all floating parameters.
        batch: tensors by name.
        settings: of `zoft.optimizer.ZOOptimizer`.
    """
    from zoft.lockstep import BatchLoss
    from zoft.optimizer import ZOOptimizer

    copied = _trainable_copy(model, as_set)
    closure = (lambda: loss(copied)) if batch is None else BatchLoss(lambda given: loss(copied, given), batch)

    def work() -> None:
        optimizer = ZOOptimizer(copied, lr=0.0, **settings)
        for _ in range(2):
            optimizer.step(closure)

    return _in_all(copied, work)


def mezo_step_bytes(model: nn.Module, loss: Callable[[nn.Module], torch.Tensor], as_set: bool = False) -> int:
    """Peak bytes of a step of MeZO's own procedure (`zoft.mezo`). Arguments as in `zo_step_bytes`."""
    from zoft.mezo import MeZO

    copied = _trainable_copy(model, as_set)

    def work() -> None:
        optimizer = MeZO(copied, lr=0.0)
        for _ in range(2):
            optimizer.step(lambda: loss(copied))

    return _in_all(copied, work)


def adamw_step_bytes(model: nn.Module, loss: Callable[[nn.Module], torch.Tensor], as_set: bool = False) -> int:
    """Peak bytes of an AdamW step on the model's device: weights, gradients, moments, what autograd keeps, scratch.

    The optimizer is torch's fused one, Trainer's default and the one with the least scratch. Two steps are taken,
    since the moments are there in full only from the second forward on. Arguments as in `zo_step_bytes`.
    """
    copied = _trainable_copy(model, as_set)

    def work() -> None:
        optimizer = torch.optim.AdamW([w for w in copied.parameters() if w.requires_grad], lr=0.0, fused=True)
        for _ in range(2):
            loss(copied).backward()
            optimizer.step()
            optimizer.zero_grad()

    return _in_all(copied, work)


def _trainable_copy(model: nn.Module, as_set: bool) -> nn.Module:
    copied = copy.deepcopy(model)
    copied.zero_grad()
    for weight in copied.parameters():
        weight.requires_grad_(weight.requires_grad if as_set else weight.is_floating_point())
    return copied


def _in_all(model: nn.Module, work: Callable[[], None]) -> int:
    """The weights' bytes and the work's peak, taken with gradients on and every random state left as it was."""
    gc.collect()  # cycles of earlier work would otherwise end inside the count
    device = next(model.parameters()).device
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        return weight_bytes(model) + peak_tensor_bytes(work, device)
