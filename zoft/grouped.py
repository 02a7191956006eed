"""Modules whose displaced weights are made together, in one call of the backend, when the module around them begins.

On a CPU a call between two products costs some 0.3 ms, most of it spent on fetching the interpreter's code and objects, which
the product drove out of the caches; the weights of a layer made together cost it once (docs/performance.md).

Which modules run inside which is watched in a pass. Outside the module around it, a weight of a group is `Withheld`: whoever
computes with it ends the pass, which is then begun again without that group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules import module as hooks

from zoft.audit import tensors
from zoft.backends import PANEL_BYTES
from zoft.space import ParameterSpace, Slot

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

    def __init__(self, entry: Entry) -> None:
        super().__init__(entry.slot.name)
        self.entry = entry


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
        self._running: list[nn.Module] = []

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Inside, all calls of modules are seen."""
        handles = [
            hooks.register_module_forward_pre_hook(self._begins),
            hooks.register_module_forward_hook(self._ends, always_call=True),
        ]
        self.around.clear()
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._running.clear()

    def _begins(self, module: nn.Module, _: Any) -> None:
        before = self.around.get(module, self._running)
        self.around[module] = tuple(outer for outer in before if outer in self._running)
        self._running.append(module)

    def _ends(self, module: nn.Module, *_: Any) -> None:
        if self._running and self._running[-1] is module:
            self._running.pop()


def grouped(
    around: Mapping[nn.Module, Sequence[nn.Module]], entries: Mapping[nn.Module, Sequence[Entry]], most: int
) -> list[Group]:
    """Groups of at least two weights and at most `most` bytes, each as far out as that allows.

    Args:
        around: the modules around each, outermost first.
        entries: weights that may be displaced together with others.
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
    return [Group(outer, {e: Withheld.of(e) for e in own}) for outer, own in found.items() if len(inside[outer]) > 1]


class Withheld(torch.Tensor):
    """Stands for a weight of a group where it is not displaced: its shape and type may be asked for, and no more.

    Raises:
        UsedOutside: by any operation on it.
    """

    entry: Entry

    @classmethod
    def of(cls, entry: Entry) -> Withheld:
        """It takes no memory."""
        weight = entry.slot.weight
        made = weight.new_empty(1).expand(weight.shape).as_subclass(cls)
        made.entry = entry
        return made

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func not in _LOOKS:
            mine = next(tensor for tensor in tensors((list(args), dict(kwargs or {}))) if isinstance(tensor, cls))
            raise UsedOutside(mine.entry)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


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
