"""Modules whose displaced weights are made together, in one call of the backend, when the module around them begins.

On a CPU a call between two products costs some 0.3 ms, most of it spent on fetching the interpreter's code and objects, which
the product drove out of the caches; the weights of a layer made together cost it once (docs/performance.md).

Which modules run inside which is watched in a pass. Outside the module around it, a weight of a group is `Withheld`: a pass in
which somebody computes with it counts for nothing, and is begun again without that group.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, NoReturn

import torch
from torch import nn
from torch.nn.modules import module as hooks

from zoft.audit import tensors
from zoft.backends import PANEL_BYTES, Move, Target
from zoft.errors import UnsupportedModuleError
from zoft.scratch import ALIGNMENT
from zoft.shown import Place, Shown
from zoft.space import ParameterSpace, Slot

logger = logging.getLogger(__name__)
MOST_RESTARTS = 3  # of one pass, after which all groups are given up
PARTICULAR = (nn.MultiheadAttention, nn.TransformerEncoderLayer)  # which run otherwise where nothing inside has hooks
SHARE = 8  # a group's copies are at most one in so many bytes of the trained weights


class Entry(NamedTuple):
    """A weight, and where it is read."""

    place: Place
    slot: Slot


class Group(NamedTuple):
    """What is displaced when `around` begins, and put back when it ends."""

    around: nn.Module
    entries: dict[Entry, Withheld]  # and what stands for them outside


class UsedOutside(Exception):
    """A weight of a group was used while the module around the group did not run."""


class Groups:
    """The groups of a view, found after its first pass."""

    def __init__(
        self, space: ParameterSpace, shown: Shown, fill: Callable[[Sequence[Target], Sequence[Move]], None]
    ) -> None:
        """
        Args:
            shown: where copies are put up.
            fill: writes the copies of several targets.
        """
        self._space, self._shown, self._fill = space, shown, fill
        # None: which modules run in which is not known
        self._groups: list[Group] | None = None if budget(space) else []
        self._used: list[Entry] = []

    @property
    def around(self) -> list[nn.Module]:
        """The modules that have one."""
        return [group.around for group in self._groups or ()]

    def learn(self, around: Mapping[nn.Module, Sequence[nn.Module]], places: Iterable[tuple[Place, Slot]]) -> None:
        """From a pass: which weights are displaced together from now on. What is known already stays.

        Args:
            around: the modules around each that ran, outermost first.
            places: weights that may be displaced together with others.
        """
        if self._groups is not None:
            return
        inner = {
            module: tuple(outer for outer in outside if outer in self._space.modules)
            for module, outside in around.items()
            if not any(isinstance(outer, PARTICULAR) for outer in (module, *outside))
        }
        entries = [Entry(place, slot) for place, slot in places if slot.is_matrix and place[0] in inner]
        self._groups = grouped(inner, entries, budget(self._space), self._used)

    def show(self, wanted: Callable[[Entry], bool], moves: tuple[Move, ...]) -> Iterator[Any]:
        """Have those of the entries that are `wanted` displaced in this pass; the handles of the hooks that do it."""
        for around, entries in self._groups or ():
            now = [entry for entry in entries if wanted(entry)]
            if now:
                yield around.register_forward_pre_hook(functools.partial(self._begin, entries=now, moves=moves))
                yield around.register_forward_hook(self._end, always_call=True)
                self._shown.put({}, [(entry.place, entries[entry]) for entry in now])

    def _begin(self, around: nn.Module, _: Any, entries: list[Entry], moves: tuple[Move, ...]) -> None:
        if self._shown.runs(around):  # inside itself
            self._shown.put({}, (), around)
            return
        slots = list(dict.fromkeys(slot for _, slot in entries))
        self._shown.scratch.reserve(slots[0].weight.device, sum(slot.weight.nbytes + ALIGNMENT for slot in slots))
        copies = {
            slot: self._shown.scratch.push(slot.weight.device, slot.weight.shape, slot.weight.dtype) for slot in slots
        }
        self._fill([Target(slot.weight, slot.window, out=copy) for slot, copy in copies.items()], moves)
        self._shown.put(copies, [(place, copies[slot]) for place, slot in entries], around, pieces=len(copies))

    def _end(self, around: nn.Module, _: Any, output: Any) -> None:
        if self._shown.last_of(around):
            self._shown.take_from(around, output)

    def begin(self) -> None:
        """A pass begins."""
        self._used.clear()

    @property
    def used_outside(self) -> bool:
        """Whether a stand-in was used since: the pass counts for nothing, whatever it returned or raised."""
        return bool(self._used)

    def give_up(self, restarts: int) -> None:
        """Those of the weights that were used outside are displaced one by one from now on.

        Args:
            restarts: how often this pass has been begun again.

        Raises:
            UnsupportedModuleError: a stand-in that is no longer shown was used.
        """
        groups = self._groups or []
        left = [group for group in groups if not any(entry in group.entries for entry in self._used)]
        name = self._used[0].slot.name
        if len(left) == len(groups):
            raise UnsupportedModuleError(
                f"{name!r} is used through a reference that was taken in an earlier pass and kept outside its module, which a "
                "read-only perturbation cannot reach; freeze it or use perturbation=in_place"
            )
        logger.info("%s is used outside the module around it: it is displaced by itself", name)
        self._groups = left if restarts < MOST_RESTARTS else []


def budget(space: ParameterSpace) -> int:
    """Bytes of copies that a group may have: an eighth of the trained weights, a panel, and the model's largest weight at most.

    0: no groups are made. Triton's backend makes a copy in one launch, which is no cheaper for several; weights that come and
    go are made alone.
    """
    if space.backend.name == "triton" or space.streamed is not None or space.sharded:
        return 0
    return min(PANEL_BYTES, space.largest, sum(slot.weight.nbytes for slot in space.slots) // SHARE)


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
    around: Mapping[nn.Module, Sequence[nn.Module]], entries: Sequence[Entry], most: int, used: list[Entry]
) -> list[Group]:
    """Groups of at least two weights and at most `most` bytes, each as far out as that allows.

    Args:
        around: the modules around each, outermost first.
        entries: weights that may be displaced together with others.
        used: where stand-ins tell that they were used.
    """
    inside: dict[nn.Module, dict[Slot, None]] = {}
    for (module, _), slot in entries:
        for outer in around[module]:
            inside.setdefault(outer, {})[slot] = None
    fits = {outer: sum(slot.weight.nbytes for slot in slots) <= most for outer, slots in inside.items()}
    found: dict[nn.Module, dict[Entry, Withheld]] = {}
    for entry in entries:
        outer = next((outer for outer in around[entry.place[0]] if fits[outer] and len(inside[outer]) > 1), None)
        if outer is not None:
            found.setdefault(outer, {})[entry] = Withheld.of(entry, used)
    return [Group(outer, own) for outer, own in found.items()]


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


_T = torch.Tensor
_LOOKS = {_T.dim, _T.element_size, _T.is_floating_point, _T.numel, _T.size} | {
    vars(torch._C.TensorBase)[name].__get__
    for name in ("device", "dtype", "is_cpu", "is_cuda", "is_meta", "layout", "ndim", "requires_grad", "shape")
}
