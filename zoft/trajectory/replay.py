"""From a base model and a log back to the weights: no forward passes, many steps in one pass over the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypeVar

from torch import nn

from zoft.backends import Move, Rounding, TensorMove
from zoft.backlog import Backlog
from zoft.errors import UsageError
from zoft.estimate import Flag, Step
from zoft.estimators import estimator as make_estimator
from zoft.perturb import in_place_path
from zoft.rules import Rule, State, spend
from zoft.rules import rule as make_rule
from zoft.space import ParameterSpace
from zoft.trajectory.errors import TrajectoryError
from zoft.trajectory.fingerprint import frozen_fingerprint, trained_fingerprint
from zoft.trajectory.header import Header, parameters, trainable_as_in
from zoft.trajectory.log import TrajectoryLog

T = TypeVar("T")
TERMS_AT_ONCE = 512  # multiply-adds per weight in one pass


@dataclass(frozen=True, slots=True)
class Replayed:
    """Where replay arrived."""

    space: ParameterSpace  # the weights, with their residual bits
    rule_state: State
    steps: int  # optimizer steps since step 0


def replay(model: nn.Module, log: TrajectoryLog, until: int | None = None, *, backend: str = "auto") -> Replayed:
    """Turn the base `model`, in place, into the model after `until` steps of the log (all of them by default).

    The weights are bit for bit those of the run: the same moves through the same writer, in the same order. A run that
    perturbed in place is replayed with its sweeps, skipped steps included.

    Raises:
        TrajectoryError: the model is not the one that the run started from, or the log does not reach `until`. The
        weights
            are untouched then.
    """
    log = log.until(until)
    space = matching_space(model, log.header, backend)
    check_base(model, space, log.header)
    state = advance(space, log.header, log.steps, log.header.rule_state)
    return Replayed(space, state, log.end)


def advance(space: ParameterSpace, header: Header, steps: Sequence[Step], state: State) -> State:
    """Repeat `steps` on weights that are where they were before the first of them; the rule's state after them.

    Where updates of matrices waited (zo_merge_every), they are merged where they were, and what still waits at the end there:
    the weights are those that an evaluation after the last step would have seen.

    Raises:
        TrajectoryError: they do not follow one another; the weights are untouched then.
    """
    if any(after.index != before.index + 1 for before, after in pairwise(steps)):
        raise TrajectoryError("the steps to repeat do not follow one another: one is missing, or there twice")
    writes, backlog = Writes(header, state), backlog_of(header)
    now: list[Move] = []  # of all weights; where matrices wait, of the others
    late: list[Move] = []  # of matrices
    terms = 0
    for step in steps:
        if Flag.MERGED in step.flags:
            late += backlog.take()
        for move, _ in writes.of(step):
            now.append(move)
            if backlog.keeps:
                backlog.add(move)
            terms += len(move.terms)
        if terms >= TERMS_AT_ONCE:
            _write(space, now, late, backlog.keeps)
            now, late, terms = [], [], 0
    _write(space, now, [*late, *backlog.take()], backlog.keeps)
    return writes.state


def _write(space: ParameterSpace, now: Sequence[Move], late: Sequence[Move], apart: bool) -> None:
    space.move_(now, matrices=False if apart else None)
    if apart:
        space.move_(late, matrices=True)


def backlog_of(header: Header) -> Backlog:
    """Empty, and as that of the run."""
    return Backlog(header.merge_every, wide=any(parameter.dtype == "float64" for parameter in header.parameters))


class Writes:
    """Every write that a step of this run makes, in order."""

    def __init__(self, header: Header, state: State) -> None:
        """Raises TrajectoryError: a rule or estimator that this version of zoft does not have."""
        self.state = state
        self._rule, self._estimator = rule_of(header), _made(make_estimator, header.estimator)
        self._source = header.source
        self._counts = header.counts
        self._in_place = header.perturbation == "in_place"

    def of(self, step: Step) -> Iterator[tuple[Move, bool]]:
        """(move, whether it is the update) pairs; the in-place sweeps of each micro-batch come before the update."""
        if self._in_place:
            population = self._estimator.population(self._source.at(step.index, self._counts.at(step.index)))
            path = in_place_path(population)
            for _ in range(step.evaluations):
                yield from ((move, False) for move in path)
        move, self.state = spend(self._rule, self.state, step)
        if move is not None:
            yield move, True


def rule_of(header: Header) -> Rule:
    """The rule of the run. Raises TrajectoryError: one that this version of zoft does not have."""
    return _made(make_rule, header.rule)


def _made(make: Callable[..., T], settings: dict[str, Any]) -> T:
    try:
        return make(**settings)
    except (UsageError, TypeError, ValueError) as error:
        raise TrajectoryError(f"this version of zoft cannot replay the log: {error}") from error


def matching_space(
    model: nn.Module,
    header: Header,
    backend: str = "auto",
    rounding: str | None = None,
    buffers: Sequence[str] | None = None,
    shaped: bool | None = None,
) -> ParameterSpace:
    """The log's parameters in `model`, with its rounding, rule's buffers, form and blocks of directions (or others).

    Raises:
        TrajectoryError: names, shapes or dtypes differ; the message says which.
    """
    with trainable_as_in(header, model):
        space = ParameterSpace(
            model,
            rounding=rounding or header.rounding,
            backend_name=backend,
            buffers=rule_of(header).buffers if buffers is None else buffers,
            shaped=header.source.shaped if shaped is None else shaped,
            blocks=header.blocks[0] if header.blocks else 1,
            small=header.source.small,
        )
        space.load_thresholds(header.thresholds)
    mine = {p.name: p for p in parameters(space)}
    for theirs in header.parameters:
        here = mine.get(theirs.name)
        if here != theirs:
            found = "is tied to another one" if here is None else f"is {list(here.shape)} {here.dtype}"
            raise TrajectoryError(
                f"the log trained {theirs.name!r} as {list(theirs.shape)} {theirs.dtype}, but in this model it "
                f"{found}; give the base model that the run started from ({header.base or 'unknown'}), in its dtype"
            )
    return space


def check_base(model: nn.Module, space: ParameterSpace, header: Header) -> None:
    """Raises TrajectoryError unless the weights are those from which the log starts."""
    for what, wanted, found in (
        ("trained", header.weights, trained_fingerprint(space)),
        ("frozen", header.frozen, frozen_fingerprint(model, space)),
    ):
        if found != wanted:
            raise TrajectoryError(
                f"wrong base model: its {what} weights have fingerprint {found}, the log starts from {wanted} "
                f"({header.base or 'name unknown'}); replaying on it would give another model"
            )


def merge(model: nn.Module, logs: Sequence[tuple[TrajectoryLog, float]], *, backend: str = "auto") -> ParameterSpace:
    """Task arithmetic: w = w_0 + sum_k scale_k (w_k - w_0) over runs k from one base w_0. (Ilharco et al. 2023.)

    The displacement of a run without weight decay is a sum of multiples of directions, so it can be scaled. It is
    added in float32 (bfloat16 weights carry 16 residual bits meanwhile); the drift of in-place sweeps is not part of
    it.

    Raises:
        TrajectoryError: no log, another base, different parameters, or weight decay (its displacement is no such sum).
    """
    if not logs:
        raise TrajectoryError("there is nothing to merge: give at least one log")
    header = logs[0][0].header
    dtypes = {parameter.dtype for log, _ in logs for parameter in log.header.parameters}
    rounding = Rounding.STOCHASTIC if "float16" in dtypes else Rounding.RESIDUAL16
    buffers = list(dict.fromkeys(kind for log, _ in logs for kind in rule_of(log.header).buffers))
    shaped = any(log.header.source.shaped for log, _ in logs)
    divided = {log.header.blocks[0] for log, _ in logs if log.header.blocks}
    if len(divided) > 1:
        raise TrajectoryError(
            f"the logs divide the layers into {' and '.join(map(str, sorted(divided)))} blocks; merge runs of one zo_blocks"
        )
    if any(log.header.thresholds for log, _ in logs):
        raise TrajectoryError(
            "a run with zo_shape=small_weights moves what is small where it stands; that is no sum of directions and cannot "
            "be scaled: merge other runs"
        )
    header = next((log.header for log, _ in logs if log.header.blocks), header)
    space = matching_space(model, header, backend, rounding, buffers, shaped)
    for log, _ in logs:
        if log.header.parameters != header.parameters:
            raise TrajectoryError("the logs trained different parameters; merge runs that trained the same ones")
        if any(step.weight_decay for step in log.steps):
            raise TrajectoryError("a run with weight decay cannot be scaled; merge runs with weight_decay=0")
        check_base(model, space, log.header)
    for log, scale in logs:
        space.momenta.begin()
        writes = Writes(log.header, log.header.rule_state)
        moves = [_scaled(move, scale) for step in log.steps for move, is_update in writes.of(step) if is_update]
        for start in range(0, len(moves), TERMS_AT_ONCE):
            space.move_(moves[start : start + TERMS_AT_ONCE])
    return space


def _scaled(move: Move, scale: float) -> Move:
    if isinstance(move, TensorMove):
        return replace(move, factor=scale * move.factor)
    terms: Any = tuple(type(term)(term.direction, scale * term.scale) for term in move.terms)
    return Move(terms, rounding_key=move.rounding_key)
