"""A view of a model in which every member of a population, some rows of one batch, sees weights of its own.

The forward of each module that holds a moved parameter is replaced while the batch runs. A linear layer multiplies each
member's rows with panels of that member's weights, all made in one reading of W (`perturbed_linear`), or along thin factors
all rows with W and each member's rows with its factors (`low_rank`). An embedding makes each member's rows that are looked up.
Every other module (a norm, a Conv1D, an embedding of few rows, experts) runs once for each member, on its rows and copies that
were made together. What cannot be told apart is an error: a module with trained ones inside and parameters of its own, a call
without rows of every member, a weight that is read outside its module (audited in passes 1, 2, 4, 8 …).
"""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import nn

from zoft.audit import Audit, ReadOutside
from zoft.backends import PANEL_BYTES, Move, Point, Target
from zoft.backends.base import panel_of, products
from zoft.directions import LowRank, sees
from zoft.errors import UnsupportedModuleError, UsageError
from zoft.few_rows import GivesRows, OfAllRows, Rows
from zoft.lockstep.members import Members, first_dimensions, showing
from zoft.lockstep.pending import Pending
from zoft.space import ParameterSpace, Slot
from zoft.vectors import Vectors
from zoft.widened import can_widen, narrow, narrow_dtype, widen, widens_itself

T = TypeVar("T")
Held = dict[str, Slot]  # attribute -> parameter


class LockstepView:
    """Show the rows of each member of a population the weights at its point."""

    def __init__(self, space: ParameterSpace, pending: Pending) -> None:
        """
        Args:
            pending: the update that is made of each parameter as it is first read.

        Raises:
            UsageError: a trained parameter is held by modules only that have others with trained parameters inside.
        """
        self._space, self._pending = space, pending
        held: dict[nn.Module, Held] = defaultdict(dict)
        owners = {module for slot in space.slots for module, _ in slot.owners}
        for slot in space.slots:
            leaves = [(module, attribute) for module, attribute in slot.owners if not owners & set(_inside(module))]
            if not leaves:
                raise UsageError(
                    f"zo_panels=lockstep: {slot.name!r} belongs to {type(slot.owners[0][0]).__name__}, which has others that "
                    "are trained inside, so its calls cannot be made for each point apart; freeze it or use zo_panels=jit"
                )
            for module, attribute in leaves:
                held[module][attribute] = slot
        self._held = dict(held)
        trained = {id(module._parameters[attribute]) for module in held for attribute in held[module]}
        self._wide = {module for module in held if can_widen(module, trained)}
        self.calls: dict[nn.Module, list[tuple[int, ...]]] = {}  # in the last pass: first dimensions of its tensors
        self._points: Sequence[Point] = ()  # of the pass that is under way
        self._factored = False
        self._members = Members(1, 1)
        self._making = False
        self._vectors: list[Vectors] = []  # one a member
        self._early: list[Mapping[Slot, torch.Tensor]] = []  # each member's norms and biases, made before the forward
        self._passes: Counter[frozenset[int | None]] = Counter()  # by the blocks of layers that were displaced

    @property
    def modules(self) -> list[nn.Module]:
        """That hold trained parameters."""
        return list(self._held)

    def name_of(self, module: nn.Module) -> str:
        """Of one of its parameters."""
        return next(iter(self._held[module].values())).name

    def evaluate(self, points: Sequence[Point], rows: int, losses: Callable[[], T]) -> T:
        """`losses()`, whose forward is given `rows` rows for each of `points`, one after the other.

        Raises:
            UnsupportedModuleError: a module is called in a way, or a weight read from a place, that members cannot share.
        """
        blocks = frozenset(term.direction.block for point in points for term in point if not term.waits)
        self._passes[blocks] += 1
        audited = not self._passes[blocks] & (self._passes[blocks] - 1)  # passes 1, 2, 4, 8 …
        moved = {slot for slot in self._space.slots for p in points if any(sees(t.direction, slot.window) for t in p)}
        audit = Audit(moved, lambda: self._making, self._space.moves_about) if audited else nullcontext()
        try:
            with self._pending.spent(), self._shown(points, rows, moved), audit:
                return losses()
        except ReadOutside as error:
            raise UnsupportedModuleError(
                f"{error.slot.name!r} is read by {error.operation} outside its module, where zo_panels=lockstep cannot show "
                "each point its own; freeze it or use zo_panels=jit"
            ) from None

    @contextmanager
    def _shown(self, points: Sequence[Point], rows: int, moved: set[Slot]) -> Iterator[None]:
        self._points, self._members, self.calls = points, Members(len(points), rows), {}
        self._factored = any(isinstance(term.direction.form, LowRank) for point in points for term in point)
        replaced: list[nn.Module] = []
        try:
            wait: set[Slot] = set()  # for the reading that displaces them: dense linear layers' own weights
            for module, held in self._held.items():
                shown = {attribute: slot for attribute, slot in held.items() if slot in moved}
                if not shown and module not in self._wide:
                    continue
                if "forward" in vars(module):
                    raise UnsupportedModuleError(
                        f"the module that owns {self.name_of(module)!r} has a forward of its own making, which "
                        "zo_panels=lockstep would hide; use zo_panels=jit"
                    )
                shown = held if module in self._wide else shown
                module.forward = self._forward(module, shown)
                replaced.append(module)
                if isinstance(module.forward, GivesRows) and not self._factored:
                    wait.update(slot for name, slot in shown.items() if name == "weight" and len(slot.owners) == 1)
            self._pending.make(slot for slot in self._space.slots if slot not in wait)
            self._make_vectors(points, moved)
            yield
        finally:
            for module in replaced:
                vars(module).pop("forward", None)
            self._early = []

    def _forward(self, module: nn.Module, shown: Held) -> Callable[..., Any]:
        """What stands in for a module's forward."""
        if type(module).forward is nn.Linear.forward:
            return GivesRows(self._linear, module, shown)
        if isinstance(module, nn.Embedding) and type(module).forward is nn.Embedding.forward:
            return functools.partial(self._embedding, module, shown)
        return functools.partial(self._each, module, shown)

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Look at a call."""
        if torch.is_grad_enabled():
            raise UsageError(
                "zo_panels=lockstep builds no graph: take the losses without gradients, or use zo_panels=jit"
            )
        first = next((a for a in args if isinstance(a, torch.Tensor)), None)
        if first is not None and torch.is_autocast_enabled(first.device.type):
            raise UsageError(
                "zo_panels=lockstep multiplies in the weights' own type, and the loss is taken under autocast; load the model "
                "in the type it should compute in (dtype=), or use zo_panels=jit"
            )
        self.calls.setdefault(module, []).append(first_dimensions(module, args, kwargs))

    def _linear(
        self, module: nn.Linear, shown: Held, input: torch.Tensor, ids: Rows | OfAllRows | None = None
    ) -> torch.Tensor:
        """Each member's rows through its own weight and bias; with `ids` these outputs alone, or what they are wanted for."""
        self._enter(module, (input,), {})
        x = self._members.stacked(input, self.name_of(module))
        with self._make():
            bias = torch.stack(self._copies(shown["bias"])) if "bias" in shown else _plain(module.bias)

            def outputs(rows: Rows | None) -> torch.Tensor:
                return self._members.flat(self._products(x, module, shown.get("weight"), bias, rows))

            if isinstance(ids, OfAllRows):
                return ids.over(input, module.weight.shape[0], outputs)
            return outputs(ids)

    def _products(
        self, x: torch.Tensor, module: nn.Linear, slot: Slot | None, bias: torch.Tensor | None, ids: Rows | None
    ) -> torch.Tensor:
        """[members, …, outputs] from x [members, …, inputs].

        Args:
            slot: of a moved weight; None: it is the same for all.
            bias: [outputs] or [members, outputs].
        """
        backend, points = self._space.backend, self._points
        bias = bias if ids is None or bias is None else bias[..., ids]
        if slot is None:
            weight = module.weight.detach() if ids is None else module.weight.detach()[ids]
            return products(x, weight.expand(len(points), *weight.shape), bias)
        factored = self._factored and slot.window.total_columns > 1
        if not factored and ids is None:
            with self._pending.of(slot) as (target, moves, rounding):
                return backend.perturbed_linear(x, target, points, PANEL_BYTES, bias, moves, rounding)
        self._pending.make([slot])  # a layer of which few rows are read now
        target = Target(slot.weight, slot.window)
        if not factored and isinstance(ids, slice):
            return backend.perturbed_linear(x, panel_of(target, ids.start, ids.stop), points, PANEL_BYTES, bias)
        if not factored:
            return products(x, backend.perturbed_embedding(ids.expand(len(points), -1), target, points), bias)  # type: ignore[union-attr]
        return backend.thin_linear(x, target, points, bias, ids)

    def _embedding(self, module: nn.Embedding, shown: Held, input: torch.Tensor) -> torch.Tensor:
        """The rows that each member looks up, or where that is as many as there are, from a table of its own."""
        ids = self._members.stacked(input, self.name_of(module))
        if ids[0].numel() >= module.num_embeddings:
            return self._each(module, shown, input)
        self._enter(module, (input,), {})
        with self._make():
            (slot,) = shown.values()
            rows = self._space.backend.perturbed_embedding(ids, Target(slot.weight, slot.window), self._points)
            return self._members.flat(rows)

    def _each(self, module: nn.Module, shown: Held, *args: Any, **kwargs: Any) -> Any:
        """The module's own forward for one member after the other."""
        self._enter(module, args, kwargs)
        name, wide = self.name_of(module), module in self._wide
        casts = wide and not widens_itself(module, args, kwargs, own=True)
        given = narrow_dtype((args, kwargs)) if casts else None
        calls = self._members.apart(widen((args, kwargs)) if casts else (args, kwargs), name)
        size = sum(slot.weight.numel() * (4 if wide else slot.weight.element_size()) for slot in shown.values())
        at_once, outputs = max(1, PANEL_BYTES // max(size, 1)), []
        for start in range(0, len(calls), at_once):
            members = slice(start, start + at_once)
            with self._make():
                copies = {attribute: self._copies(slot, members, wide) for attribute, slot in shown.items()}
            for place, (own, named) in enumerate(calls[members]):
                with showing(module, {attribute: made[place] for attribute, made in copies.items()}):
                    outputs.append(type(module).forward(module, *own, **named))
        joined = self._members.together(outputs)
        return narrow(joined, given)

    def _make_vectors(self, points: Sequence[Point], moved: set[Slot]) -> None:
        """Displace norms and biases, in one sweep for each member."""
        if len(self._vectors) < len(points):
            wide = {slot for module in self._wide for slot in self._held[module].values()}
            self._vectors += (Vectors(self._space, wide) for _ in range(len(points) - len(self._vectors)))
        own = zip(self._vectors, points, strict=False)
        self._early = [vectors.displaced(moved, (Move(point),)) for vectors, point in own]

    def _copies(self, slot: Slot, members: slice = slice(None), wide: bool = False) -> list[torch.Tensor]:
        """A parameter at the points of members."""
        if slot in self._early[0]:
            return [copies[slot] for copies in self._early[members]]
        weight, points = slot.weight.detach(), self._points[members]
        weight = weight.float() if wide else weight
        copies = weight.new_empty(len(points), *weight.shape)
        self._space.backend.panel_pair(Target(weight, slot.window), points, copies)
        return list(copies)

    @contextmanager
    def _make(self) -> Iterator[None]:
        """Inside, weights may be read."""
        before, self._making = self._making, True
        try:
            yield
        finally:
            self._making = before


def _inside(module: nn.Module) -> Iterator[nn.Module]:
    return (child for child in module.modules() if child is not module)


def _plain(weight: torch.Tensor | None) -> torch.Tensor | None:
    return None if weight is None else weight.detach()
