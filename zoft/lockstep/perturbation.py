"""The losses of a population from one batch, and how they are checked against those of the points in turn."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn

from zoft.backends import Move, Point
from zoft.backlog import Backlog
from zoft.errors import UnsupportedModuleError, UsageError
from zoft.limits import check_count
from zoft.lockstep.loss import TakenLoss
from zoft.lockstep.members import first_dimensions, grows_with_members
from zoft.lockstep.pending import Pending
from zoft.lockstep.view import LockstepView
from zoft.perturb import ReadOnly
from zoft.same_draws import SameDraws
from zoft.space import ParameterSpace
from zoft.tally import Taken

T = TypeVar("T")
logger = logging.getLogger(__name__)
COMPARED = 4  # points of a population whose losses are also taken in turn
# By how much two ways of rounding the same loss may differ, relative to it (to 1 where it is smaller)
ALIKE = {torch.float64: 2.0**-40, torch.float32: 2.0**-17, torch.float16: 2.0**-8, torch.bfloat16: 2.0**-5}
DRAWS = (
    "and the points of a population that go through the model as one batch would be given different ones; use "
    "zo_panels=jit, or a loss that draws none"
)


class Lockstep(ReadOnly):
    """Read-only perturbation in which the points of a population are rows of one batch.

    Whenever modules run that never ran before, so in the first population of a run, some of the losses are taken in turn as
    well and compared.
    """

    def __init__(
        self, space: ParameterSpace, model: nn.Module, row_budget: int | None = None, backlog: Backlog | None = None
    ) -> None:
        """
        Args:
            row_budget: the most rows that go through the model at once; more members than fit take turns; None: any number.

        Raises:
            UsageError: a trained parameter whose module cannot be run in lockstep.
        """
        super().__init__(space, backlog)
        if row_budget is not None:
            check_count("zo_row_budget", row_budget)
        self._budget = row_budget
        self._pending = Pending(space)
        self._lockstep = LockstepView(space, self._pending)
        self._known: set[nn.Module] = set()  # modules whose calls were compared
        self._alike = max(ALIKE.get(weight.dtype, 0.0) for weight in model.parameters())

    def losses(self, population: Sequence[Point], loss: Callable[[], T], *, hold: bool = False) -> list[T]:
        """As `ReadOnly.losses`.

        Args:
            loss: a `SameDraws` of a `TakenLoss`, as the optimizer makes it.

        Raises:
            UsageError: a loss that cannot be taken of several members at once, or that draws random numbers itself.
            UnsupportedModuleError: a module whose rows cannot be told apart, or losses other than those in turn.
        """
        if not isinstance(loss, SameDraws) or not isinstance(loss.loss, TakenLoss):
            raise UsageError("zo_panels=lockstep takes the losses of ZOOptimizer alone; use zo_panels=jit")
        population, rows, found = self._seen(population), loss.loss.rows, []
        for start, stop in shares(len(population), rows, self._budget):
            found += self._at_once(population[start:stop], rows, loss)
        return found

    def postpone(self, moves: list[Move]) -> list[Move]:
        """All of them, unless one is spent tensor by tensor."""
        if not moves or not all(type(move) is Move for move in moves):
            return moves
        self._pending.keep(moves)
        return []

    def take_back(self) -> list[Move]:
        return self._pending.take()

    @property
    def begun(self) -> bool:
        return bool(self._pending)

    def _at_once(self, points: Sequence[Point], rows: int, loss: SameDraws[Any]) -> list[Any]:
        taken: TakenLoss = loss.loss  # type: ignore[assignment]
        one_draw = len(points) > 1  # members would draw different numbers
        several = lambda: loss.once(lambda: taken.repeated(len(points)), forbidden=DRAWS if one_draw else "")  # noqa: E731
        found = self._lockstep.evaluate(points, rows, several)
        calls = self._lockstep.calls
        if len(points) > 1 and not calls.keys() <= self._known:
            try:
                self._compare(points, found, calls, loss)
            except UnsupportedModuleError:  # a model's first loss may be taken twice (`objectives.forward`)
                found = self._lockstep.evaluate(points, rows, several)
                calls = self._lockstep.calls
                self._compare(points, found, calls, loss)
            self._known |= calls.keys()
        return found

    def _compare(
        self,
        points: Sequence[Point],
        found: Sequence[Taken],
        calls: dict[nn.Module, list[tuple[int, ...]]],
        loss: SameDraws[Any],
    ) -> None:
        """Raises UnsupportedModuleError where the members' losses are not those that they have alone."""
        members = sorted({round(i * (len(points) - 1) / (COMPARED - 1)) for i in range(COMPARED)})
        worst = 0.0
        for member in members:
            with _recorded(self._lockstep.modules) as alone:
                one = self._view.evaluate(points[member], loss)
            for module, theirs in calls.items():
                mine = alone.get(module, [])[-len(theirs) :]
                if not grows_with_members(mine, theirs, len(points)):
                    raise UnsupportedModuleError(
                        f"the module that owns {self._lockstep.name_of(module)!r} was called with {mine[:3]} rows for one "
                        f"point and {theirs[:3]} for {len(points)}: what it is given has no dimension of the batch in front, "
                        "so zo_panels=lockstep cannot tell which rows are whose; freeze it or use zo_panels=jit"
                    )
            worst = max([worst, *map(apart, one, found[member])])
        if worst > self._alike:
            raise UnsupportedModuleError(
                f"the losses of {len(points)} points in one batch differ from those in turn by {worst:.2g} (relative), and "
                f"rounding explains {self._alike:.2g}: the loss or the model couples the rows of a batch, or orders them "
                "otherwise; use zo_panels=jit"
            )
        logger.info(
            "lockstep: the losses of %d of %d points are those in turn to %.1e", len(members), len(points), worst
        )


def shares(points: int, rows: int, budget: int | None) -> list[tuple[int, int]]:
    """Where the parts of a population begin and end of which each goes through the model at once, as equal as can be.

    An even number in all parts but the last, where that fits, since pairs share their noise.

    >>> shares(8, 16, None), shares(8, 16, 100), shares(9, 16, 64), shares(3, 16, 8)
    ([(0, 8)], [(0, 4), (4, 8)], [(0, 4), (4, 8), (8, 9)], [(0, 1), (1, 2), (2, 3)])
    """
    most = points if budget is None else min(points, max(1, budget // max(rows, 1)))
    size = -(-points // -(-points // most)) if points else 1
    if size % 2 and 1 < size < points:
        size += 1 if size < most else -1
    return [(start, min(start + size, points)) for start in range(0, points, size)]


def apart(one: float, other: float) -> float:
    """Their distance, relative to the first (to 1 where that is smaller); 0 between values that are both no numbers."""
    if one == other or (math.isnan(one) and math.isnan(other)):
        return 0.0
    distance = abs(one - other) / max(1.0, abs(one))
    return math.inf if math.isnan(distance) else distance


@contextmanager
def _recorded(modules: Sequence[nn.Module]) -> Iterator[dict[nn.Module, list[tuple[int, ...]]]]:
    """Grows by the first dimensions of what each module is called with."""
    calls: dict[nn.Module, list[tuple[int, ...]]] = {}

    def see(module: nn.Module, args: Any, kwargs: Any) -> None:
        calls.setdefault(module, []).append(first_dimensions(module, args, kwargs))

    handles = [module.register_forward_pre_hook(see, with_kwargs=True) for module in modules]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
