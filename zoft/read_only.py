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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn import functional

from zoft.audit import Audit, ReadOutside
from zoft.backends import PANEL_BYTES, Move, Point, Target
from zoft.backends.base import panel_of
from zoft.directions import LowRank, sees
from zoft.displaced import report_too_large
from zoft.errors import UnsupportedModuleError
from zoft.few_rows import GivesRows, OfAllRows, Rows, can_give_rows, forward_rows, rows_wanted
from zoft.grouped import Groups, Nesting
from zoft.shards import is_cut_itself
from zoft.shown import Place, Shown
from zoft.space import ParameterSpace, Slot
from zoft.vectors import Vectors
from zoft.widened import can_widen, narrow, narrow_dtype, widen, widens_itself

T = TypeVar("T")
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
        self._steady = [
            place for slot in space.slots for place in slot.owners if slot.shard is None and space.streamed is None
        ]
        trained = {id(module._parameters[attribute]) for module in held for attribute, _ in held[module]}
        self._wide = {module for module in held if can_widen(module, trained)}
        self._given: dict[nn.Module, torch.dtype | None] = {}  # what a widened module that runs now was given
        self._vectors = Vectors(space, {slot for module in self._wide for _, slot in held[module]})
        self._ready: Mapping[Slot, torch.Tensor] = {}  # copies that were made at the beginning of this pass
        self._shown = Shown()
        self._nesting = Nesting()
        self._groups = Groups(space, self._shown, self._fill)
        self._point: Point | None = None  # of the pass that is under way
        self._handles: list[Any] = []  # its hooks
        self._served: set[Place] = set()  # places for which nothing has to be done when their module runs
        self._large_now: dict[nn.Linear, Slot] = {}  # layers whose forward goes panel by panel in this pass
        self._thin: dict[nn.Linear, Callable[[torch.Tensor], torch.Tensor]] = {}  # of them, what gives the outputs
        self._whole_pass: list[Slot] = []  # displaced from beginning to end of a pass
        self._passes: Counter[frozenset[int | None]] = Counter()  # by the blocks of layers that were displaced
        self._filling = False
        self._ran: set[nn.Module] = set()
        self._early: set[Slot] = set()  # that were shown whether their module ran or not

    @property
    def scratch_bytes(self) -> int:
        """The largest amount of memory that perturbed copies took at once."""
        return self._shown.scratch.peak

    def evaluate(self, point: Point, loss: Callable[[], T]) -> T:
        """`loss()` with every trainable parameter displaced by `point`; () is w itself, seen the way the other points are.

        Raises:
            UnsupportedModuleError: a trainable parameter is read other than through its module's attribute.
        """
        if not point and not self._wide:
            return loss()
        restarts = 0
        while True:
            self._groups.begin()
            try:
                with self.at(point):
                    result = loss()
                if not self._groups.used_outside:
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
                if not self._groups.used_outside:
                    raise
            if self._groups.used_outside:
                restarts += 1
                self._groups.give_up(restarts)
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
        if self._shown.in_the_middle:
            raise InTheMiddle
        self._hide()
        return (lambda: None) if point is None else functools.partial(self._show, point)

    def _show(self, point: Point) -> None:
        self._end()  # the last pass, where it was not allowed to end
        self._point, moves, moved = point, (Move(point),), set(self._moved(point))
        held = [module for module, shown in self._held.items() if any(slot in moved for _, slot in shown)]
        wide = {m for m in self._wide if not any(slot in self._whole_pass for _, slot in self._held[m])}
        self._shown.begin(self._steady)
        self._large_now = {} if not point or torch.is_grad_enabled() else dict(self._apart(_factored(point), moved))
        for slot in [slot for slot in self._whole_pass if slot in moved]:
            self._displace(slot, slot.owners, moves)
        with self._writing():
            self._ready = self._vectors.displaced(moved.difference(self._whole_pass), moves)
        self._show_early(wide)
        self._served = self._shown.stay() | {(module, "weight") for module in self._large_now}
        for module, slot in self._large_now.items():
            module.forward = GivesRows(self._in_parts, module, slot, point)
        self._make_ready(point)
        if not torch.is_grad_enabled():
            self._handles += self._groups.show(lambda e: e.slot in moved and e.place not in self._served, moves)
        self._served = self._served | self._shown.stay()
        for module in wide:
            before = functools.partial(self._swap_wide, moves=moves)
            self._handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            first = is_cut_itself(module)
            self._handles.append(module.register_forward_hook(self._restore_wide, always_call=True, prepend=first))
        for module in held:
            own = ((module, name) for name, slot in self._held[module] if slot in moved)
            if module not in wide and not self._served.issuperset(own):
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
        self._shown.end()
        self._handles, self._large_now, self._thin, self._point, self._ready = [], {}, {}, None, {}

    def _show_early(self, wide: set[nn.Module]) -> None:
        """Let copies that are made be seen in the whole pass, but for those that modules in float32 see while they run."""
        seen = {slot: copy for slot, copy in self._ready.items() if copy.dtype is slot.weight.dtype}
        there = [(place, copy) for slot, copy in seen.items() for place in slot.owners if place[0] not in wide]
        self._shown.put(seen, there)
        self._early.update(seen)

    def _make_ready(self, point: Point) -> None:
        """Look up factors at the beginning of a pass: between two products that costs ten times as much."""
        if not _factored(point) or self._space.streamed is not None:
            return
        for module, slot in self._large_now.items():
            if slot.shard is None and (module.bias is None or (module, "bias") in self._served):
                target = Target(slot.weight, slot.window)
                self._thin[module] = self._space.backend.thin_ready(target, [point], module.bias)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Inside, copies are made: an audit lets weights be read."""
        self._filling = True
        try:
            yield
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
        """From a pass in which the nesting of modules was watched."""
        around = self._nesting.around
        self._ran.update(around)
        alone = {m for m in self._held if m in self._wide or isinstance(m, nn.Embedding) or "forward" in vars(m)}
        places = [(place, slot) for slot in self._space.slots for place in slot.owners if place[0] not in alone]
        self._groups.learn(around, places)
        around.clear()

    def _fill(self, targets: Sequence[Target], moves: Sequence[Move]) -> None:
        with self._writing():
            self._space.backend.sweep_(targets, moves)

    def _in_parts(
        self, module: nn.Linear, slot: Slot, point: Point, x: torch.Tensor, ids: Rows | OfAllRows | None = None
    ) -> torch.Tensor:
        """The forward of a linear layer: panel by panel of its displaced weight, or at w and beside it through thin factors.

        With `ids` these outputs alone, from the rows of the weight behind them, or what they are wanted for.
        """
        if x.dtype is not slot.weight.dtype or torch.is_autocast_enabled(x.device.type):
            self._displace(slot, ((module, "weight"),), (Move(point),))
            y = nn.Linear.forward(module, x) if ids is None else forward_rows(module, x, ids)
            self._shown.take()
            return y
        if isinstance(ids, OfAllRows):
            rows = _read(module, "weight", slot).window.rows
            return ids.over(x, rows, functools.partial(self._in_parts, module, slot, point, x))
        bias = module.bias if module.bias is None or ids is None else module.bias[ids]
        with self._writing():
            if ids is None and module in self._thin:
                return self._thin[module](x.unsqueeze(0)).squeeze(0)
            target, backend = _read(module, "weight", slot), self._space.backend
            if _factored(point):
                return backend.thin_linear(x.unsqueeze(0), target, [point], bias, ids).squeeze(0)
            if isinstance(ids, slice):
                target = panel_of(target, ids.start, ids.stop)
            elif ids is not None:
                return functional.linear(x, backend.perturbed_embedding(ids.unsqueeze(0), target, [point]).squeeze(0))
            return backend.perturbed_linear(x.unsqueeze(0), target, [point], PANEL_BYTES).squeeze(0)

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
            if (module, "weight") not in self._served:
                self._displace_rows(module, "weight", slot, wanted, moves)
                return (args[0], torch.arange(len(wanted), device=wanted.device))
            return None
        shown = [(name, slot) for name, slot in self._held[module] if (module, name) not in self._served]
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
        with self._writing():
            target = _read(module, attribute, slot)
            rows = self._space.backend.perturbed_embedding(ids.unsqueeze(0), target, [moves[0].terms])
            scratch = self._shown.scratch.push(
                slot.weight.device, (ids.numel(), target.weight.shape[1]), slot.weight.dtype
            )
            scratch.copy_(rows.view(scratch.shape))
        self._shown.put({slot: scratch}, [((module, attribute), scratch)], module, pieces=1)

    def _displace(
        self,
        slot: Slot,
        owners: Sequence[tuple[nn.Module, str]],
        moves: tuple[Move, ...],
        dtype: torch.dtype | None = None,
    ) -> None:
        """Fill scratch (of another type, where one is named) with the displaced weight and let the owners show it."""
        module = owners[0][0]
        if slot in self._ready and self._ready[slot].dtype is (dtype or slot.weight.dtype):
            copy = self._ready[slot]
            self._shown.put({slot: copy}, [(place, copy) for place in owners], module)
            return
        with self._writing():
            read = _read(*owners[0], slot)
            scratch = self._shown.scratch.push(slot.weight.device, read.weight.shape, dtype or slot.weight.dtype)
            if dtype is None:
                self._space.backend.axpby_(Target(read.weight, read.window, out=scratch), moves)
            else:
                scratch.copy_(read.weight)
                self._space.backend.axpby_(Target(scratch, read.window), moves)
            shown = slot.shard.like(scratch) if slot.shard is not None and read.window is slot.window else scratch
        self._shown.put({slot: scratch}, [(place, shown) for place in owners], module, pieces=1)

    def _restore(self, module: nn.Module, _: Any, output: Any) -> None:
        for name, _slot in self._held[module]:
            if (module, name) not in self._served and self._shown.last_of(module):
                self._shown.take_from(module, output)

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


def _read(module: nn.Module, attribute: str, slot: Slot) -> Target:
    """What the module is about to read, and its address: of a sharded parameter the gathered one, or the part."""
    gathered = slot.shard.shown(module, attribute) if slot.shard is not None else None
    return Target(slot.weight, slot.window) if gathered is None else Target(gathered, slot.shard.whole)  # type: ignore[union-attr]


def _blocks(point: Point) -> frozenset[int | None]:
    """That the losses' own directions lie in: what waits beside the weights (zo_merge_every) may be of any."""
    return frozenset(term.direction.block for term in point if not term.waits)


def _factored(point: Point) -> bool:
    return any(isinstance(term.direction.form, LowRank) for term in point)


def _is_look_up(module: nn.Module, args: tuple[Any, ...]) -> bool:
    """Does this call only look up rows of a table, and fewer than it has? (A padding index must be a row of what is shown.)"""
    return (
        isinstance(module, nn.Embedding)
        and type(module).forward is nn.Embedding.forward
        and "forward" not in vars(module)
        and len(args) == 1
        and (module.padding_idx or 0) < args[0].numel() < module.weight.shape[0]
    )
