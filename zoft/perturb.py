"""Forward passes at points around the weights: two ways of getting there, one interface."""

from __future__ import annotations

import functools
import logging
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import TypeVar

import torch

from zoft.backends import Move, Point, Term
from zoft.backlog import Backlog
from zoft.directions import Distribution
from zoft.displaced import report_too_large
from zoft.errors import UsageError
from zoft.products import wide_products
from zoft.read_only import InTheMiddle, ReadOnlyView
from zoft.same_draws import SameDraws
from zoft.space import ParameterSpace

logger = logging.getLogger(__name__)
NAMES = ("auto", "read_only", "in_place")
T = TypeVar("T")  # what a loss returns: a number, or several (the whole batch and its halves)


class Perturbation(ABC):
    """Evaluates a loss at w + sum_j s_j z_j for each point of a population."""

    name: str

    def __init__(self, space: ParameterSpace) -> None:
        self.space = space
        self.cycles = 0  # times that noise went into the weights and out again since the last step

    @abstractmethod
    def losses(self, population: Sequence[Point], loss: Callable[[], T], *, hold: bool = False) -> list[T]:
        """`loss()` at every point, in order. The weights are what they were when this returns, or raises: up to rounding
        in place, where the whole way through all points is gone in either case, and counted in `cycles`.

        With `hold` they may stay where the last point was, if nothing raised: the caller goes on to `take_back` or
        `restore` before anything reads a weight.
        """

    def take_back(self) -> list[Move]:
        """The moves that lead back from where `hold` or `begin` left the weights; the caller makes them now."""
        return []

    def begin(self, population: Callable[[], Sequence[Point]]) -> list[Move]:
        """The first move of the way through `population()`; the caller makes it now, in one pass with others.

        The next `losses` goes on from there where it is given the same population; anything else first goes to the end of
        the way. In place only: elsewhere there is no way, nothing is returned, and the population is not asked for.
        """
        return []

    def postpone(self, moves: list[Move]) -> list[Move]:
        """Those of an update's moves that the caller makes now; the others are made while the next losses are taken.

        Then `begun` is true, and `take_back` returns them to whoever wants the weights before. In lockstep only.
        """
        return moves

    @property
    def begun(self) -> bool:
        """Whether the weights stand where `begin` led, or an update was postponed."""
        return False

    def restore(self) -> None:
        """Bring the weights back where `hold` left them elsewhere."""
        moves = self.take_back()
        if moves:
            self.space.move_(moves)


class ReadOnly(Perturbation):
    """The forward pass sees perturbed weights; the weights themselves are never written."""

    name = "read_only"

    def __init__(self, space: ParameterSpace, backlog: Backlog | None = None) -> None:
        """`backlog`: what matrices lack, and losses see beside them."""
        super().__init__(space)
        self._backlog = Backlog() if backlog is None else backlog
        self._view = ReadOnlyView(space)
        self._in_turns = True  # a streamed block is brought in once for all points

    def losses(self, population: Sequence[Point], loss: Callable[[], T], *, hold: bool = False) -> list[T]:
        self.space.settle()  # after a pass that was cut short
        population = self._seen(population)
        if self._in_turns and len(population) > 1 and self.space.streamed is not None:
            try:
                each = [functools.partial(self._view.evaluate, point, loss) for point in population]
                return self.space.streamed.in_turns(each, functools.partial(self._suspend, loss))
            except InTheMiddle:
                logger.info(
                    "a module with weights of its own runs the blocks: they are brought in for each point apart"
                )
                self._in_turns = False
        return [self._view.evaluate(point, loss) for point in population]

    def _seen(self, population: Sequence[Point]) -> Sequence[Point]:
        """The points as they lie from the weights as they stand."""
        lacking = self._backlog.point
        return [lacking + point for point in population] if lacking else population

    def _suspend(self, loss: Callable[[], T]) -> Callable[[], None]:
        resume, draw = self._view.suspend(), loss.suspend() if isinstance(loss, SameDraws) else None

        def go_on() -> None:
            resume()
            if draw is not None:
                draw()

        return go_on


class InPlace(Perturbation):
    """The classic: noise is added to the weights, and subtracted again, by seed.

    Restoring rounds. In float32 one cycle with eps 1e-3 moves a weight of size 0.02 by about one unit in the last place.
    In 16 bits the only case that does not drift is Rademacher with eps a power of two: after the first cycle both ends lie
    on one grid and every later cycle is exact (docs/performance.md gives the measured errors); anything else is refused.

    Raises:
        UsageError: 16-bit weights with another distribution or radius, or with residual bits.
    """

    name = "in_place"

    def __init__(self, space: ParameterSpace, *, eps: float, distribution: Distribution) -> None:
        super().__init__(space)
        self._counted = False
        self._back: list[Move] = []  # not empty: the weights are displaced
        self._begun: tuple[Point, ...] = ()  # not empty: to the first of these points
        narrow = next((s for s in space.slots if s.weight.dtype in (torch.bfloat16, torch.float16)), None)
        if narrow is None:
            return
        if next(space.residuals(), None) is not None:
            raise UsageError("perturbation=in_place cannot restore weights that carry residual bits; use read_only")
        if not _reversible(distribution, eps):
            raise UsageError(
                f"perturbation=in_place on {narrow.weight.dtype} weights drifts unless zo_distribution=rademacher and zo_eps "
                f"is a power of two, but {distribution.value} and {eps:g} were given (Gaussian noise in bfloat16 moves the "
                "weights by 12 % in 1,000 steps without any update); use perturbation=read_only"
            )
        warnings.warn(IN_PLACE_16_BIT, stacklevel=3)

    def losses(self, population: Sequence[Point], loss: Callable[[], T], *, hold: bool = False) -> list[T]:
        begun = self.begun and self._begun == tuple(population)
        if not begun:
            self.restore()
        if not any(population):
            return [loss() for _ in population]
        if not self._counted:
            self._counted = True
            step = max(abs(term.scale) for point in population for term in point)
            report_too_large((slot.weight for slot in self.space.slots), step)
        results: list[T] = []
        path = in_place_path(population)
        self._begun = ()
        self.cycles += not begun
        try:
            for gone, move in enumerate(path[:-1], start=1):
                if move.terms and not (begun and gone == 1):
                    self.space.move_([move])
                self._back = path[gone:]
                results.append(loss())
        except BaseException:
            self.restore()  # rounds, and replay repeats whole ways: so an exception does not cut one short
            raise
        if not hold:
            self.restore()
        return results

    def take_back(self) -> list[Move]:
        moves, self._back, self._begun = self._back, [], ()
        return moves

    def begin(self, population: Callable[[], Sequence[Point]]) -> list[Move]:
        points = tuple(population())
        path = in_place_path(points)
        if not path[0].terms:
            return []
        self._begun, self._back = points, path[1:]
        self.cycles += 1
        return path[:1]

    @property
    def begun(self) -> bool:
        return bool(self._begun)


IN_PLACE_16_BIT = (
    "perturbation=in_place writes noise into 16-bit weights: the first step rounds them to the grid of w +- zo_eps (measured "
    "once at zo_eps = 2^-10: 0.066 % of the norm in bfloat16, 0.008 % in float16), later steps restore them exactly. "
    "perturbation=read_only changes nothing."
)


def in_place_path(population: Sequence[Point]) -> list[Move]:
    """The moves that lead from w through every point and back to w: what training does in place, and replay repeats.

    For (+eps z, -eps z): +eps, -2 eps, +eps, each rounded to nearest. Training may make the last of them in one pass with
    the update: a pass of several moves rounds after each of them, so the bits are those of a pass each.
    """
    stops: list[Point] = [(), *population, ()]
    return [_between(start, stop) for start, stop in pairwise(stops)]


def _between(start: Point, stop: Point) -> Move:
    """One move from w + start to w + stop: terms along the same direction are merged."""
    scales = {term.direction: -term.scale for term in start}
    for term in stop:
        scales[term.direction] = scales.get(term.direction, 0.0) + term.scale
    return Move(tuple(Term(direction, scale) for direction, scale in scales.items()), to_nearest=True)


def perturbation(
    name: str, space: ParameterSpace, *, eps: float, distribution: Distribution, backlog: Backlog | None = None
) -> Perturbation:
    """`read_only`, `in_place` or `auto`; `backlog` as in `ReadOnly`.

    Raises:
        UsageError: another name, or in-place where it would damage the weights.
    """
    weights = (slot.weight for slot in space.slots)
    name = choose_perturbation(name, weights, eps=eps, distribution=distribution)
    if name == "read_only":
        return ReadOnly(space, backlog)
    if name == "in_place":
        return InPlace(space, eps=eps, distribution=distribution)
    raise UsageError(f"perturbation {name!r} does not exist; there are: {', '.join(NAMES)}")


def choose_perturbation(
    name: str, weights: Iterable[torch.Tensor], *, eps: float, distribution: Distribution | str, plain: bool = True
) -> str:
    """What `auto` stands for; another name is returned as it is.

    In place where restoring is all but exact (see `InPlace`), since no copies of weights are made there: no 16-bit weight,
    Rademacher, eps a power of two. Read-only everywhere else.

    Args:
        weights: the trainable parameters.
        plain: directions are dense, and the same on all processes.

    >>> wide = [torch.zeros(3)]
    >>> [choose_perturbation("auto", wide, eps=eps, distribution="rademacher") for eps in (2.0**-10, 1e-3)]
    ['in_place', 'read_only']
    """
    if name != "auto":
        return name
    wide = all(weight.dtype in (torch.float32, torch.float64) for weight in weights)
    return "in_place" if plain and wide and _reversible(Distribution(distribution), eps) else "read_only"


def _reversible(distribution: Distribution, eps: float) -> bool:
    """Whether noise of this law can be added to weights and taken off again without drift: see `InPlace`."""
    return distribution is Distribution.RADEMACHER and math.frexp(eps)[0] == 0.5


@contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """No graph, dropout, layer drop and batch statistics off, and 16-bit products as quick as they can be.

    The root keeps its flag except while its forward runs, since callers read it to tell training from evaluation.
    bitsandbytes layers keep theirs: some repack their weights for good when they are first run outside training.
    """
    switched = [
        module
        for module in model.modules()
        if module.training and module is not model and not type(module).__module__.startswith("bitsandbytes")
    ]
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(wide_products(model.parameters()))
        if model.training:
            before = model.register_forward_pre_hook(lambda root, _: _set_training(root, False))
            after = model.register_forward_hook(lambda root, *_: _set_training(root, True), always_call=True)
            stack.callback(before.remove)
            stack.callback(after.remove)
        for module in switched:
            module.training = False
        try:
            yield
        finally:
            for module in switched:
                module.training = True


def _set_training(module: torch.nn.Module, training: bool) -> None:
    module.training = training
