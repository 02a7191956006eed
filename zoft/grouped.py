"""Modules whose displaced weights are made together, in one call of the backend, when the module around them begins.

On a CPU a call between two products costs some 0.3 ms, most of it spent on fetching the interpreter's code and objects, which
the product drove out of the caches; the weights of a layer made together cost it once (docs/performance.md).

Which modules run inside which is watched in a pass. Outside the module around it, a weight of a group is `Withheld`: a pass in
which somebody computes with it counts for nothing, and is begun again without that group.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, NoReturn

import torch
from torch import nn
from torch.nn.modules import module as hooks

from zoft.audit import tensors
from zoft.backends import PANEL_BYTES
from zoft.space import ParameterSpace, Slot

PARTICULAR = (nn.MultiheadAttention, nn.TransformerEncoderLayer)  # which run otherwise where nothing inside has hooks
LEAST = 1 << 20  # bytes of copies that a group may have, however small the weights are


class Entry(NamedTuple):
    """A weight as a module shows it."""

    module: nn.Module
    attribute: str
    slot: Slot


class Group(NamedTuple):
    """What is displaced when `around` begins, and put back when it ends."""

    around: nn.Module
    entries: dict[Entry, Withheld]  # and what stands for them outside


class UsedOutside(Exception):
    """A weight of a group was used while the module around the group did not run."""


def budget(space: ParameterSpace) -> int:
    """Bytes of copies that a group may have: of a panel, and no more than the largest weight; 0: no groups are made.

    Triton's backend makes a copy in one launch, which is no cheaper for several; weights that come and go are made alone.
    """
    if space.backend.name == "triton" or space.streamed is not None or space.sharded:
        return 0
    return min(PANEL_BYTES, max(LEAST, *(slot.weight.nbytes for slot in space.slots)))


class Nesting:
    """Which modules run inside which, as seen in one pass."""

    def __init__(self) -> None:
        self.around: dict[nn.Module, tuple[nn.Module, ...]] = {}  # that ran around all calls of each, outermost first

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Inside, all calls of modules in this thread are seen."""
        thread, running = threading.get_ident(), []

        def begins(module: nn.Module, _: Any) -> None:
            if threading.get_ident() == thread:
                before = self.around.get(module, running)
                self.around[module] = tuple(outer for outer in before if outer in running)
                running.append(module)

        def ends(module: nn.Module, *_: Any) -> None:
            if threading.get_ident() == thread and running and running[-1] is module:
                running.pop()

        handles = [
            hooks.register_module_forward_pre_hook(begins),
            hooks.register_module_forward_hook(ends, always_call=True),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def grouped(
    around: Mapping[nn.Module, Sequence[nn.Module]],
    entries: Mapping[nn.Module, Sequence[Entry]],
    most: int,
    used: list[Entry],
) -> list[Group]:
    """Groups of at least two weights and at most `most` bytes, each as far out as that allows.

    Args:
        around: the modules around each, outermost first.
        entries: weights that may be displaced together with others.
        used: where stand-ins tell that they were used.
    """
    inside: dict[nn.Module, dict[Slot, None]] = {}
    for module, own in entries.items():
        for outer in around.get(module, ()):
            inside.setdefault(outer, {}).update((entry.slot, None) for entry in own)
    fits = {outer: sum(slot.weight.nbytes for slot in slots) <= most for outer, slots in inside.items()}
    found: dict[nn.Module, list[Entry]] = {}
    for module, own in entries.items():
        outer = next((outer for outer in around.get(module, ()) if fits[outer]), None)
        if outer is not None:
            found.setdefault(outer, []).extend(own)
    return [
        Group(outer, {entry: Withheld.of(entry, used) for entry in own})
        for outer, own in found.items()
        if len(inside[outer]) > 1
    ]


class Withheld(torch.Tensor):
    """Stands for a weight of a group where it is not displaced: its shape and type may be asked for, and no more.

    It has no memory. Whatever else is done with it is told to `used`, as somebody may catch the exception.

    Raises:
        UsedOutside: by any operation on it.
    """

    entry: Entry
    used: list[Entry]

    @classmethod
    def of(cls, entry: Entry, used: list[Entry]) -> Withheld:
        """In place of the entry's weight."""
        weight = entry.slot.parameter
        made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, weight.shape, dtype=weight.dtype, device=weight.device, requires_grad=weight.requires_grad
        )
        made.entry, made.used = entry, used
        return made

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func not in _LOOKS:
            cls._tell(args, kwargs)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(
        cls, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """What goes past the method above (compiled functions, vmap) ends here."""
        cls._tell(args, kwargs)

    @classmethod
    def _tell(cls, args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> NoReturn:
        mine = [tensor for tensor in tensors((list(args), dict(kwargs or {}))) if isinstance(tensor, cls)]
        for tensor in mine:
            tensor.used.append(tensor.entry)
        raise UsedOutside(mine[0].entry.slot.name if mine else "")


_LOOKS = {
    torch.Tensor.dim,
    torch.Tensor.element_size,
    torch.Tensor.is_floating_point,
    torch.Tensor.numel,
    torch.Tensor.size,
}
_LOOKS |= {
    vars(torch._C.TensorBase)[name].__get__
    for name in ("device", "dtype", "is_cpu", "is_cuda", "is_meta", "layout", "ndim", "requires_grad", "shape")
}
