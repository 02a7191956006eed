"""A view of a model at w + s z that never writes w.

Around the forward pass of each module that holds a trainable parameter, the attribute is swapped for a scratch tensor that was
just filled with w + s z; afterwards the parameter is put back. One scratch buffer serves all modules: it is a stack, as deep as
modules with weights of their own nest, in most models the size of the largest one. Of an embedding, only the rows that are
looked up are displaced; of a linear layer with a large weight and no bias (a language model's head), a panel of rows at a time;
along directions with thin factors, a linear layer's weight is not displaced at all. Norms and biases are displaced at the
beginning of the pass, and from the second pass on the weights of several modules when the module around them begins, where they
are small enough (`zoft.grouped`).

A weight that is read while its module is not running (by a parent, in a fused loss) would silently be seen unperturbed. So
passes 1, 2, 4, 8 … (of each block of layers) are audited: when an operation reads the memory of a trainable parameter, the pass
is begun again with that parameter displaced from beginning to end, in scratch of its own; if it is still read (through a
reference cached elsewhere), that is an error that names it. The same remedy serves a module that returns its weight, or a view
of it. A branch that first runs between two audits is seen by the next one. Parameters outside a block are left alone.

Norms of 16-bit models run in float32 meanwhile, at the centre too (`zoft.widened`).
"""

from __future__ import annotations

import functools
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn
from torch.nn import functional

from zoft.audit import Audit, ReadOutside, tensors
from zoft.backends import PANEL_BYTES, Move, Point, Target
from zoft.backends.base import panel_of
from zoft.directions import LowRank, sees
from zoft.displaced import report_too_large
from zoft.errors import UnsupportedModuleError
from zoft.few_rows import GivesRows, OfAllRows, Rows, can_give_rows, forward_rows, rows_wanted
from zoft.grouped import PARTICULAR, Entry, Group, Nesting, budget, grouped
from zoft.scratch import ScratchStack
from zoft.shards import is_cut_itself
from zoft.space import ParameterSpace, Slot
from zoft.vectors import Vectors
from zoft.widened import can_widen, narrow, narrow_dtype, widen, widens_itself

T = TypeVar("T")
MOST_RESTARTS = 3  # of one pass, after which all groups are given up
logger = logging.getLogger(__name__)


class InTheMiddle(Exception):
    """A pass cannot be interrupted here: a module whose displaced weights are shown is running."""


class ReadOnlyView:
    """Enter `at(point)` and run the model: it computes with w + sum_j s_j z_j."""

    def __init__(self, space: ParameterSpace) -> None:
        self._space = space
        held: dict[nn.Module, list[tuple[str, Slot]]] = defaultdict(list)
        for slot in space.slots:
            for module, attribute in slot.owners:
                held[module].append((attribute, slot))
        self._held = dict(held)
        trained = {id(module._parameters[attribute]) for module in held for attribute, _ in held[module]}
        self._wide = {module for module in held if can_widen(module, trained)}
        self._given: dict[nn.Module, torch.dtype | None] = {}  # what a widened module that runs now was given
        self._vectors = Vectors(space, {slot for module in self._wide for _, slot in held[module]})
        self._ready: Mapping[Slot, torch.Tensor] = {}  # copies that were made at the beginning of this pass
        self._nesting = Nesting()
        self._together: list[Group] | None = (
            None if budget(space) else []
        )  # None: which modules run in which is not known
        self._shown: set[tuple[nn.Module, str]] = (
            set()
        )  # attributes that nothing has to be done for when their module runs
        self._used: list[Entry] = []  # whose stand-ins were used in this pass
        self._before: list[_Held] = []  # what whole modules held before this pass
        self._scratch = ScratchStack()
        self._point: Point | None = None  # of the pass that is under way
        self._handles: list[Any] = []  # its hooks
        self._lasting = 0  # entries of `_swapped` that stay for the whole pass
        self._large_now: dict[nn.Linear, Slot] = {}  # layers whose forward goes panel by panel in this pass
        self._thin: dict[nn.Linear, Callable[[torch.Tensor], torch.Tensor]] = {}  # of them, what gives the outputs
        self._swapped: list[_Displaced] = []  # a stack; one entry per scratch
        self._whole_pass: list[Slot] = []  # displaced from beginning to end of a pass
        self._passes: Counter[frozenset[int | None]] = Counter()  # by the blocks of layers that were displaced
        self._filling = False
        self._ran: set[nn.Module] = set()
        self._early: set[Slot] = set()  # that were shown whether their module ran or not

    @property
    def scratch_bytes(self) -> int:
        """The largest amount of memory that perturbed copies took at once."""
        return self._scratch.peak

    def evaluate(self, point: Point, loss: Callable[[], T]) -> T:
        """`loss()` with every trainable parameter displaced by `point`; () is w itself, seen the way the other points are.

        Raises:
            UnsupportedModuleError: a trainable parameter is read other than through its module's attribute.
        """
        if not point and not self._wide:
            return loss()
        restarts = 0
        while True:
            self._used.clear()
            try:
                with self.at(point):
                    result = loss()
                if not self._used:
                    break
            except ReadOutside as error:
                unreachable = error.slot.shard is not None or self._space.moves_about(error.slot)
                if error.slot in self._whole_pass or unreachable:
                    raise UnsupportedModuleError(
                        f"{error.slot.name!r} is read by {error.operation} through a reference kept outside its module, which "
                        "a read-only perturbation cannot reach; freeze it or use perturbation=in_place"
                    ) from None
                self._whole_pass.append(error.slot)
                logger.info(
                    "%s is read outside its module: its perturbed copy is held for a whole pass", error.slot.name
                )
            except Exception:
                if not self._used:
                    raise
            if self._used:
                restarts += 1
                self._give_up(restarts)
        if point:
            self._passes[_blocks(point)] += 1
            if self._passes[_blocks(point)] == 1:
                self._report_unused(self._moved(point))
            if self._passes.total() == 1:
                self._report_too_large(point)
        return result

    def _moved(self, point: Point) -> list[Slot]:
        """The parameters that `point` displaces."""
        return [slot for slot in self._space.slots if any(sees(term.direction, slot.window) for term in point)]

    @contextmanager
    def at(self, point: Point) -> Iterator[None]:
        """Inside, every module that holds trainable parameters sees them displaced by `point`; of a block, those in it."""
        passes = self._passes[_blocks(point)]
        audited = point and not (passes + 1) & passes  # passes 1, 2, 4, 8 …
        try:
            self._show(point)
            watched = (
                Audit(self._moved(point), lambda: self._filling, self._space.moves_about) if audited else nullcontext()
            )
            first = bool(point) and not passes
            with watched, self._nesting.watched() if first else nullcontext():
                yield
            if first:
                self._learn()
        finally:
            self._hide()

    def suspend(self) -> Callable[[], None]:
        """Show the weights as they are, in the middle of a pass; what is returned goes on with it.

        Raises:
            InTheMiddle: a module whose weights are displaced is running.
        """
        point = self._point
        if len(self._swapped) > self._lasting:
            raise InTheMiddle
        self._hide()
        return (lambda: None) if point is None else functools.partial(self._show, point)

    def _show(self, point: Point) -> None:
        self._point, moves, moved = point, (Move(point),), set(self._moved(point))
        held = [module for module, shown in self._held.items() if any(slot in moved for _, slot in shown)]
        wide = {m for m in self._wide if not any(slot in self._whole_pass for _, slot in self._held[m])}
        if self._before:  # the last pass was not allowed to end
            self._end()
        if self._space.streamed is None:
            self._before = [
                (module, name, module._parameters[name])
                for module, shown in self._held.items()
                for name, slot in shown
                if slot.shard is None
            ]
        self._large_now = {} if not point or torch.is_grad_enabled() else dict(self._apart(_factored(point), moved))
        for slot in [slot for slot in self._whole_pass if slot in moved]:
            self._displace(slot, slot.owners, moves)
        self._ready = self._made_early(moved, moves)
        self._show_early(wide)
        self._lasting = len(self._swapped)
        for module, slot in self._large_now.items():
            module.forward = GivesRows(self._in_parts, module, slot, point)
        self._shown = {(module, name) for displaced in self._swapped for module, name, _ in displaced.held}
        self._shown.update((module, "weight") for module in self._large_now)
        self._show_together(moved, moves)
        self._make_ready(point)
        for module in wide:
            before = functools.partial(self._swap_wide, moves=moves)
            self._handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            first = is_cut_itself(module)
            self._handles.append(module.register_forward_hook(self._restore_wide, always_call=True, prepend=first))
        for module in held:
            own = ((module, name) for name, slot in self._held[module] if slot in moved)
            if module not in wide and not self._shown.issuperset(own):
                self._handles.append(module.register_forward_pre_hook(functools.partial(self._swap, moves=moves)))
                first = is_cut_itself(module)  # before FSDP2's own hook cuts what it finds there
                self._handles.append(module.register_forward_hook(self._restore, always_call=True, prepend=first))

    def _hide(self) -> None:
        try:
            self._end()
        except BaseException:  # Ctrl-C once more, in the middle of it
            self._end()
            raise

    def _end(self) -> None:
        for handle in self._handles:
            handle.remove()
        for module in self._large_now:
            vars(module).pop("forward", None)
        for displaced in reversed(self._swapped):
            _put_back(displaced.held)
        _put_back(self._before)
        self._swapped.clear()
        self._scratch.clear()
        self._handles, self._large_now, self._point, self._lasting, self._ready = [], {}, None, 0, {}
        self._before, self._shown, self._thin = [], set(), {}

    def _show_early(self, wide: set[nn.Module]) -> None:
        """Let copies that are made be seen in the whole pass, but for those that modules in float32 see while they run."""
        held: list[_Held] = []
        self._swapped.append(_Displaced(self._ready, held))
        for slot, copy in self._ready.items():
            for module, name in slot.owners if copy.dtype is slot.weight.dtype else ():
                if module not in wide:
                    held.append((module, name, module._parameters[name]))
                    module._parameters[name] = copy  # type: ignore[assignment]
                    self._early.add(slot)

    def _make_ready(self, point: Point) -> None:
        """Look up factors at the beginning of a pass: between two products that costs ten times as much."""
        if not _factored(point) or self._space.streamed is not None:
            return
        for module, slot in self._large_now.items():
            if slot.shard is None and (module.bias is None or (module, "bias") in self._shown):
                target = Target(slot.weight, slot.window)
                self._thin[module] = self._space.backend.thin_ready(target, [point], module.bias)

    def _made_early(self, moved: set[Slot], moves: tuple[Move, ...]) -> Mapping[Slot, torch.Tensor]:
        self._filling = True
        try:
            return self._vectors.displaced(moved.difference(self._whole_pass), moves)
        finally:
            self._filling = False

    def _apart(self, factored: bool, moved: set[Slot]) -> Iterator[tuple[nn.Linear, Slot]]:
        """Linear layers whose displaced weight is never held whole: large ones, and all along directions with factors."""
        for module, shown in self._held.items():
            if not can_give_rows(module) or "forward" in vars(module):
                continue
            assert isinstance(module, nn.Linear)
            if module.bias is not None and not factored:
                continue  # the products would be rounded once more before it is added
            slot = dict(shown).get("weight")
            if (
                slot is None
                or slot not in moved
                or slot in self._whole_pass
                or (factored and slot.window.total_columns == 1)
            ):
                continue
            if factored or slot.parameter.numel() * slot.weight.element_size() > PANEL_BYTES:
                yield module, slot

    def _learn(self) -> None:
        """From a pass in which the nesting of modules was watched: which weights are displaced together from now on."""
        self._ran.update(self._nesting.around)
        if self._together is not None:
            return
        around = {
            module: tuple(outer for outer in outside if outer in self._space.modules)
            for module, outside in self._nesting.around.items()
            if module in self._held and not any(isinstance(outer, PARTICULAR) for outer in (module, *outside))
        }
        entries = {
            module: [Entry(module, name, slot) for name, slot in self._held[module] if slot.is_matrix]
            for module in around
            if module not in self._wide and not isinstance(module, nn.Embedding) and "forward" not in vars(module)
        }
        self._together = grouped(around, entries, budget(self._space), self._used)
        self._nesting.around.clear()

    def _give_up(self, restarts: int) -> None:
        """Weights were used while the modules around their groups did not run: they are displaced one by one from now on.

        Args:
            restarts: how often this pass has been begun again.

        Raises:
            UnsupportedModuleError: a stand-in that is no longer shown was used.
        """
        groups = self._together or []
        left = [group for group in groups if not any(entry in group.entries for entry in self._used)]
        name = self._used[0].slot.name
        if len(left) == len(groups):
            raise UnsupportedModuleError(
                f"{name!r} is used through a reference that was taken in an earlier pass and kept outside its module, which a "
                "read-only perturbation cannot reach; freeze it or use perturbation=in_place"
            )
        logger.info("%s is used outside the module around it: it is displaced by itself", name)
        self._together = left if restarts < MOST_RESTARTS else []

    def _show_together(self, moved: set[Slot], moves: tuple[Move, ...]) -> None:
        """Have groups displaced when the modules around them begin."""
        for around, entries in self._together or () if not torch.is_grad_enabled() else ():
            now = [e for e in entries if e.slot in moved and (e.module, e.attribute) not in self._shown]
            if not now:
                continue
            before = functools.partial(self._swap_together, entries=now, moves=moves)
            self._handles.append(around.register_forward_pre_hook(before))
            self._handles.append(around.register_forward_hook(self._restore_together, always_call=True))
            for entry in now:
                entry.module._parameters[entry.attribute] = entries[entry]  # type: ignore[assignment]
                self._shown.add((entry.module, entry.attribute))

    def _swap_together(self, around: nn.Module, _: Any, entries: list[Entry], moves: tuple[Move, ...]) -> None:
        if any(displaced.module is around and displaced.copies for displaced in self._swapped):  # it runs inside itself
            self._swapped.append(_Displaced({}, (), around))
            return
        copies: dict[Slot, torch.Tensor] = {}
        self._filling = True
        try:
            for slot in dict.fromkeys(entry.slot for entry in entries):
                copies[slot] = self._scratch.push(slot.weight.device, slot.weight.shape, slot.weight.dtype)
            held = [(module, attribute, module._parameters[attribute]) for module, attribute, _ in entries]
            self._swapped.append(_Displaced(copies, held, around, pieces=len(copies)))
            self._space.backend.sweep_(
                [Target(slot.weight, slot.window, out=copy) for slot, copy in copies.items()], moves
            )
            for module, attribute, slot in entries:
                module._parameters[attribute] = copies[slot]  # type: ignore[assignment]
            _is_new(copies.values())
        finally:
            self._filling = False

    def _restore_together(self, around: nn.Module, _: Any, output: Any) -> None:
        if self._shown_by(around):
            _check_returned(self._pop(), around, output)

    def _in_parts(
        self, module: nn.Linear, slot: Slot, point: Point, x: torch.Tensor, ids: Rows | OfAllRows | None = None
    ) -> torch.Tensor:
        """The forward of a linear layer: panel by panel of its displaced weight, or at w and beside it through thin factors.

        With `ids` these outputs alone, from the rows of the weight behind them, or what they are wanted for.
        """
        if x.dtype is not slot.weight.dtype or torch.is_autocast_enabled(x.device.type):
            self._displace(slot, ((module, "weight"),), (Move(point),))
            y = nn.Linear.forward(module, x) if ids is None else forward_rows(module, x, ids)
            self._pop()
            return y
        if isinstance(ids, OfAllRows):
            rows = _shown(module, "weight", slot).window.rows
            return ids.over(x, rows, functools.partial(self._in_parts, module, slot, point, x))
        bias = module.bias if module.bias is None or ids is None else module.bias[ids]
        self._filling = True
        try:
            if ids is None and module in self._thin:
                return self._thin[module](x.unsqueeze(0)).squeeze(0)
            target, backend = _shown(module, "weight", slot), self._space.backend
            if _factored(point):
                return backend.thin_linear(x.unsqueeze(0), target, [point], bias, ids).squeeze(0)
            if isinstance(ids, slice):
                target = panel_of(target, ids.start, ids.stop)
            elif ids is not None:
                return functional.linear(x, backend.perturbed_embedding(ids.unsqueeze(0), target, [point]).squeeze(0))
            return backend.perturbed_linear(x.unsqueeze(0), target, [point], PANEL_BYTES).squeeze(0)
        finally:
            self._filling = False

    def _swap_wide(self, module: nn.Module, args: Any, kwargs: Any, moves: tuple[Move, ...]) -> tuple[Any, Any]:
        self._swap(module, args, moves, torch.float32)
        if widens_itself(module, args, kwargs):
            self._given[module] = None
            return args, kwargs
        self._given[module] = narrow_dtype((args, kwargs))
        return widen(args), widen(kwargs)

    def _restore_wide(self, module: nn.Module, args: Any, output: Any) -> Any:
        self._restore(module, args, output)
        return narrow(output, self._given.pop(module, None))

    def _swap(
        self, module: nn.Module, args: tuple[Any, ...], moves: tuple[Move, ...], dtype: torch.dtype | None = None
    ) -> tuple[Any, ...] | None:
        """Show displaced weights. Where they are a table of which a few rows are looked up: new arguments that find them."""
        wanted = rows_wanted(module, args)
        if wanted is not None and module.bias is None:
            slot = dict(self._held[module])["weight"]
            if (module, "weight") not in self._shown:
                self._displace_rows(module, "weight", slot, wanted, moves)
                return (args[0], torch.arange(len(wanted), device=wanted.device))
            return None
        shown = [(name, slot) for name, slot in self._held[module] if (module, name) not in self._shown]
        if shown and _is_look_up(module, args):
            ((attribute, slot),) = shown
            self._displace_rows(module, attribute, slot, args[0], moves)
            return (torch.arange(args[0].numel(), device=args[0].device).view(args[0].shape),)
        for attribute, slot in shown:
            self._displace(slot, ((module, attribute),), moves, dtype)
        return None

    def _displace_rows(
        self, module: nn.Module, attribute: str, slot: Slot, ids: torch.Tensor, moves: tuple[Move, ...]
    ) -> None:
        """Let an embedding, or a head of few wanted rows, show its displaced rows `ids`, one below the other."""
        self._filling = True
        try:
            target = _shown(module, attribute, slot)
            rows = self._space.backend.perturbed_embedding(ids.unsqueeze(0), target, [moves[0].terms])
            scratch = self._scratch.push(slot.weight.device, (ids.numel(), target.weight.shape[1]), slot.weight.dtype)
            held = [(module, attribute, module._parameters[attribute])]
            self._swapped.append(_Displaced({slot: scratch}, held, module, pieces=1))
            module._parameters[attribute] = scratch.copy_(rows.view(scratch.shape))  # type: ignore[assignment]
        finally:
            self._filling = False

    def _displace(
        self,
        slot: Slot,
        owners: Sequence[tuple[nn.Module, str]],
        moves: tuple[Move, ...],
        dtype: torch.dtype | None = None,
    ) -> None:
        """Fill scratch (of another type, where one is named) with the displaced weight and let the owners show it."""
        held = [(module, attribute, module._parameters[attribute]) for module, attribute in owners]
        if slot in self._ready and self._ready[slot].dtype is (dtype or slot.weight.dtype):
            copy = self._ready[slot]
            self._swapped.append(_Displaced({slot: copy}, held, owners[0][0]))
            for module, attribute in owners:
                module._parameters[attribute] = copy  # type: ignore[assignment]
            return
        self._filling = True
        try:
            read = _shown(*owners[0], slot)
            scratch = self._scratch.push(slot.weight.device, read.weight.shape, dtype or slot.weight.dtype)
            self._swapped.append(_Displaced({slot: scratch}, held, owners[0][0], pieces=1))
            if dtype is None:
                self._space.backend.axpby_(Target(read.weight, read.window, out=scratch), moves)
            else:
                scratch.copy_(read.weight)
                self._space.backend.axpby_(Target(scratch, read.window), moves)
            _is_new((scratch,))
            shown = slot.shard.like(scratch) if slot.shard is not None and read.window is slot.window else scratch
            for module, attribute in owners:
                module._parameters[attribute] = shown  # type: ignore[assignment]
        finally:
            self._filling = False

    def _restore(self, module: nn.Module, _: Any, output: Any) -> None:
        for name, _slot in self._held[module]:
            if (module, name) not in self._shown and self._shown_by(module):
                _check_returned(self._pop(), module, output)

    def _shown_by(self, module: nn.Module) -> bool:
        """Whether the last of the copies that are shown are shown because `module` runs."""
        return len(self._swapped) > self._lasting and self._swapped[-1].module is module

    def _pop(self) -> _Displaced:
        displaced = self._swapped[-1]
        _put_back(displaced.held)
        self._swapped.pop()
        for _ in range(displaced.pieces):
            self._scratch.pop()
        return displaced

    def _report_unused(self, moved: list[Slot]) -> None:
        idle = [s for s in moved if s not in self._early and not any(module in self._ran for module, _ in s.owners)]
        unused = [slot.name for slot in idle if slot not in self._whole_pass]
        if unused:
            logger.warning(
                "%d trainable parameters took no part in the first loss and would only gather noise; freeze them: %s%s",
                len(unused), ", ".join(unused[:5]), " …" if len(unused) > 5 else "",
            )  # fmt: skip

    def _report_too_large(self, point: Point) -> None:
        wide = {slot.name for module in self._wide for _, slot in self._held[module] if slot not in self._whole_pass}
        others = (slot.weight for slot in self._space.slots if slot.name not in wide)
        report_too_large(others, max(abs(term.scale) for term in point))


def _shown(module: nn.Module, attribute: str, slot: Slot) -> Target:
    """What the module is about to read, and its address: of a sharded parameter the gathered one, or the part."""
    gathered = slot.shard.shown(module, attribute) if slot.shard is not None else None
    return Target(slot.weight, slot.window) if gathered is None else Target(gathered, slot.shard.whole)  # type: ignore[union-attr]


def _blocks(point: Point) -> frozenset[int | None]:
    """That the losses' own directions lie in: what waits beside the weights (zo_merge_every) may be of any."""
    return frozenset(term.direction.block for term in point if not term.waits)


def _factored(point: Point) -> bool:
    return any(isinstance(term.direction.form, LowRank) for term in point)


_Held = tuple[nn.Module, str, torch.Tensor | None]  # module, attribute, and what it showed before


class _Displaced(NamedTuple):
    """Parameters whose displaced copies are shown."""

    copies: Mapping[Slot, torch.Tensor]
    held: Sequence[_Held]
    module: nn.Module | None = None  # while this one runs; None: in the whole pass
    pieces: int = 0  # of scratch; copies that were made at the beginning of the pass are no part of the stack


def _put_back(held: Iterable[_Held]) -> None:
    for module, attribute, weight in held:
        module._parameters[attribute] = weight  # type: ignore[assignment]


def _is_new(copies: Iterable[torch.Tensor]) -> None:
    """Tells autograd that the backend filled these: a graph that needs what was there before must not be walked."""
    if torch.is_grad_enabled():
        torch.autograd.graph.increment_version(tuple(copies))


def _check_returned(displaced: _Displaced, module: nn.Module, output: Any) -> None:
    """Raises ReadOutside if an output lies in the memory of a copy that is no longer shown."""
    returned = [tensor.data_ptr() for tensor in tensors(output) if tensor.numel()]
    for slot, copy in displaced.copies.items():
        if any(copy.data_ptr() <= start < copy.data_ptr() + copy.nbytes for start in returned):
            raise ReadOutside(slot, f"whoever {type(module).__name__} returns it to")


def _is_look_up(module: nn.Module, args: tuple[Any, ...]) -> bool:
    """Does this call only look up rows of a table, and fewer than it has? (A padding index must be a row of what is shown.)"""
    return (
        isinstance(module, nn.Embedding)
        and type(module).forward is nn.Embedding.forward
        and "forward" not in vars(module)
        and len(args) == 1
        and (module.padding_idx or 0) < args[0].numel() < module.weight.shape[0]
    )
