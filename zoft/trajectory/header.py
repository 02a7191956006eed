"""What a log says before its first record: everything, besides the records, that replay needs."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import nn

from zoft import __version__
from zoft.directions import LAWS, MAX_INDEX, Blocks, DirectionSource, form_of
from zoft.errors import UsageError
from zoft.naming import canonical_name
from zoft.optimizer import ZOOptimizer
from zoft.rules import RULES
from zoft.schedule import Schedule
from zoft.space import ParameterSpace
from zoft.trajectory.errors import TrajectoryError
from zoft.trajectory.fingerprint import Fingerprints, frozen_fingerprint, trained_fingerprint


@dataclass(frozen=True, slots=True)
class Parameter:
    """One trained parameter as the log knows it."""

    name: str  # canonical
    shape: tuple[int, ...]
    dtype: str  # "bfloat16"


@dataclass(frozen=True, slots=True)
class Header:
    """Plain values only; checked when it is read, because a log may come from anywhere."""

    parameters: tuple[Parameter, ...]  # trained, in the model's order
    weights: str  # fingerprint of the trained weights before the first record
    frozen: str  # fingerprint of all other parameters
    base: str  # name or folder of the model that training started from; "" if unknown
    dtype: str  # that the model was loaded in: of its frozen parameters, or of the trained ones if all are trained
    seed: int
    distribution: str
    directions: int  # q: of the population of one step; with a schedule the largest
    capacity: int  # (direction, coefficient) pairs that a record has room for
    perturbation: str  # read_only or in_place
    estimator: dict[str, Any]  # name and settings
    rule: dict[str, Any]  # name and settings
    rounding: str
    form: list[Any] = field(default_factory=list)  # thin factors or mask of directions; empty: dense
    thresholds: dict[str, float] = field(default_factory=dict)  # of small_weights, by parameter
    blocks: list[Any] = field(default_factory=list)  # of layers, one a step (`Blocks.plain`); empty: all layers
    schedule: list[Any] = field(default_factory=list)  # of q (`Schedule.plain`); empty: constant
    merge_every: int = 1  # 1: every step wrote all its update; else that of matrices waited, see `Flag.MERGED`
    first: int = 0  # index of the first record's step
    rule_state: dict[str, Any] = field(default_factory=dict)  # before the first record
    versions: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for entry in fields(self):
            value, wanted = getattr(self, entry.name), _TYPES.get(str(entry.type).split("[")[0], object)
            if not isinstance(value, wanted) or isinstance(value, bool):
                raise TrajectoryError(f"the log's header is damaged: {entry.name} cannot be {value!r:.60}")
        if not self.parameters or not all(isinstance(p, Parameter) for p in self.parameters):
            raise TrajectoryError("the log's header is damaged: it names no trained parameters")
        if not (1 <= self.directions <= MAX_INDEX and 1 <= self.capacity <= 4 * MAX_INDEX and 0 <= self.first < 2**32):
            raise TrajectoryError("the log's header is damaged: its number of directions or first step is out of range")
        if self.merge_every < 1:
            raise TrajectoryError(f"the log's header is damaged: merge_every is {self.merge_every}")
        if self.distribution not in LAWS or not 0 <= self.seed < 2**32:
            raise TrajectoryError(
                f"the log's header is damaged: seed {self.seed}, distribution {self.distribution!r:.60}"
            )
        try:
            form_of(self.form)
            Blocks.of(self.blocks)
            if max(self.counts.counts) != self.directions:
                raise UsageError("another number of directions than its schedule has")
        except (TypeError, ValueError) as error:
            shape = f"form {self.form!r:.60}, blocks {self.blocks!r:.60}, schedule {self.schedule!r:.60}"
            raise TrajectoryError(f"the log's header is damaged: {shape}") from error

    @property
    def source(self) -> DirectionSource:
        """Where the run's directions come from."""
        return DirectionSource.of_law(self.seed, self.distribution, form_of(self.form), Blocks.of(self.blocks))

    @property
    def counts(self) -> Schedule:
        """q by step."""
        return Schedule.of(self.schedule or [[0, self.directions]])

    @property
    def curved(self) -> bool:
        """Whether records hold curvatures beside the coefficients."""
        made = RULES.get(str(self.rule.get("name")))
        return made is not None and made.curved

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), allow_nan=False, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Header:
        """Raises TrajectoryError: it is not a header of this version."""
        try:
            plain = json.loads(text)
            plain["parameters"] = tuple(_parameter(**entry) for entry in plain["parameters"])
            return cls(**plain)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            if isinstance(error, TrajectoryError):
                raise
            raise TrajectoryError(f"the log's header cannot be read: {error}") from error

    def same_run(self, other: Header) -> list[str]:
        """The settings in which two headers differ, apart from where the run started and on which software."""
        free = {"weights", "frozen", "base", "first", "rule_state", "versions"}
        mine, theirs = asdict(self), asdict(other)
        return [name for name in mine if name not in free and mine[name] != theirs[name]]


_TYPES: Mapping[str, type] = {"list": list, "tuple": tuple, "str": str, "int": int, "dict": dict}


def _parameter(name: Any, shape: Any, dtype: Any) -> Parameter:
    whole = isinstance(shape, list) and all(isinstance(n, int) and n >= 0 for n in shape)
    if not (isinstance(name, str) and isinstance(dtype, str) and whole and math.prod(shape) < 2**63):
        raise TrajectoryError(f"the log's header is damaged: parameter {name!r:.60} of shape {shape!r:.60}")
    return Parameter(name, tuple(shape), dtype)


def describe(
    optimizer: ZOOptimizer,
    base: str = "",
    capacity: int | None = None,
    *,
    hash_weights: bool = True,
    known: Fingerprints | None = None,
) -> Header:
    """The header of a log that starts where `optimizer` stands now. Hashing, where nothing is `known`, reads every weight."""
    space = optimizer.space
    return Header(
        parameters=parameters(space),
        weights=(known.trained if known else trained_fingerprint(space)) if hash_weights else "",
        frozen=(known.frozen if known else frozen_fingerprint(optimizer.model, space)) if hash_weights else "",
        base=base,
        dtype=_loaded_dtype(optimizer),
        seed=optimizer.source.seed,
        distribution=optimizer.source.law,
        directions=max(optimizer.schedule.counts),
        capacity=max(optimizer.schedule.counts) if capacity is None else capacity,
        perturbation=optimizer.perturbation.name,
        estimator=optimizer.estimator.settings(),
        rule=optimizer.rule.settings(),
        rounding=space.rounding.value,
        form=optimizer.source.form.plain() if optimizer.source.form else [],
        thresholds=dict(space.thresholds),
        blocks=optimizer.source.blocks.plain() if optimizer.source.blocks else [],
        schedule=optimizer.schedule.plain() if len(optimizer.schedule.parts) > 1 else [],
        merge_every=optimizer.backlog.every,
        first=optimizer.steps,
        rule_state=optimizer.rule_state,
        versions={"zoft": __version__, "torch": torch.__version__, "python": platform.python_version()},
    )


def _loaded_dtype(optimizer: ZOOptimizer) -> str:
    trained = {id(slot.parameter) for slot in optimizer.space.slots}
    frozen = (w for w in optimizer.model.parameters() if id(w) not in trained and w.is_floating_point())
    return str(next(frozen, optimizer.space.slots[0].weight).dtype).removeprefix("torch.")


def parameters(space: ParameterSpace) -> tuple[Parameter, ...]:
    """The trained parameters of a model in the log's words."""
    return tuple(
        Parameter(slot.name, tuple(slot.parameter.shape), str(slot.weight.dtype).removeprefix("torch."))
        for slot in space.slots
    )


@contextmanager
def trainable_as_in(header: Header, model: nn.Module) -> Iterator[None]:
    """Inside, exactly the parameters that the log trained require gradients.

    Raises:
        TrajectoryError: the model lacks one of them.
    """
    wanted = {parameter.name for parameter in header.parameters}
    named = {canonical_name(name): weight for name, weight in model.named_parameters()}
    missing = sorted(wanted - named.keys())
    if missing:
        raise TrajectoryError(
            f"the log trained {len(wanted)} parameters, but this model has no {', '.join(missing[:3])}"
            f"{' …' if len(missing) > 3 else ''}; give the base model that the run started from "
            f"({header.base or 'unknown'})"
        )
    before = {weight: weight.requires_grad for weight in named.values()}
    try:
        for name, weight in named.items():
            if weight.requires_grad != (name in wanted):
                weight.requires_grad_(name in wanted)
        yield
    finally:
        for weight, flag in before.items():
            weight.requires_grad_(flag)
