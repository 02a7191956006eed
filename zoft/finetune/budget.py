"""What a comparison holds equal: forwards, steps or time, and each method's share of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from zoft.config import RunConfig
from zoft.config.load import COMMAND_LINE
from zoft.config.run import FIRST_ORDER
from zoft.config.training import training_fields
from zoft.errors import UsageError

BACKWARD = 2  # forwards that a backward pass counts for
EQUAL = ("forwards", "steps", "time")
LIMITS = ("max_steps", "max_time")  # settings of runs that say how much; the same for all methods
ROWS = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
)  # their product is a step's examples on one process
WITHOUT_END = 10**9  # steps: the clock stops the run long before
NO_LENGTH = ("constant", "constant_with_warmup", "inverse_sqrt")  # schedules that are not laid out over max_steps


@dataclass(frozen=True)
class Budget:
    """What every method may use. One forward is that of a batch of `per_device_train_batch_size` examples."""

    equal: str  # forwards, steps or time
    forwards: int | None = None  # None: those of max_steps steps with two forwards each
    max_time: str | None = None  # None: what the settings say

    @property
    def settings(self) -> list[str]:
        """As on a command line, for all methods."""
        return [] if self.max_time is None else [f"max_time={self.max_time}"]

    def share(self, name: str, config: RunConfig, unit: RunConfig) -> RunConfig:
        """The run with the share of method `name`.

        Args:
            unit: a run with the number of examples in a step that holds for all methods; where one method has its own, its
                forwards count by their examples.

        Raises:
            UsageError: not one step can be had; there is nothing to share out.
        """
        if self.equal == "time":
            return _by_the_clock(config)
        config = replace(config, run=replace(config.run, max_time=None))  # a recipe's own limit
        if self.equal == "steps":
            return config
        steps = config.training.get("max_steps", -1)
        if self.forwards is None and steps <= 0:
            raise UsageError("equal=forwards shares out the forwards of max_steps steps; set max_steps, or budget")
        batch, micro_batches = _rows(unit)
        forwards = 2 * steps * micro_batches if self.forwards is None else self.forwards
        own_batch, _ = _rows(config)
        a_step = forwards_per_step(config) * own_batch  # in examples
        if a_step > forwards * batch:
            raise UsageError(
                f"a step of {name} takes {a_step / batch:g} forwards, and {forwards} are all there are for each method; give "
                "a larger budget"
            )
        return with_training(config, max_steps=forwards * batch // a_step)


def budget_of(own_words: Mapping[str, str], shared: Mapping[str, str]) -> Budget:
    """From `budget`, `equal`, and the settings that limit all methods; their order on the command line does not matter.

    >>> budget_of({"budget": "forwards:800"}, {})
    Budget(equal='forwards', forwards=800, max_time=None)
    >>> budget_of({}, {"max_time": "10m"}).equal, budget_of({"equal": "steps"}, {"max_steps": "400"}).equal
    ('time', 'steps')

    Raises:
        UsageError: one cannot be read, or two contradict each other.
    """
    limits = {key: shared[key] for key in LIMITS if key in shared}
    given = {key: own_words[key] for key in ("budget", "equal") if key in own_words} | limits
    said = " and ".join(f"{key}={text}" for key, text in given.items())
    if "budget" in given:
        if len(given) > 1:
            raise UsageError(f"{said}: a budget says alone how much each method may use; leave the others out")
        return _read(given["budget"])
    equal = given.get("equal", "time" if "max_time" in limits else "forwards")
    if equal not in EQUAL:
        raise UsageError(f"equal must be one of {', '.join(EQUAL)}, but {equal!r} was given")
    wrong = "max_steps" if equal == "time" else "max_time"
    if wrong in limits:
        raise UsageError(
            f"{said}: methods are stopped by one measure; max_steps goes with equal forwards or steps, max_time with equal time"
        )
    return Budget(equal)


def _read(text: str) -> Budget:
    kind, _, amount = text.partition(":")
    if kind == "time" and amount:
        return Budget("time", max_time=amount)
    if kind == "forwards" and amount.isdecimal() and int(amount) > 1:
        return Budget("forwards", forwards=int(amount))
    raise UsageError(f"budget must be such as forwards:20000 or time:10m, but {text!r} was given")


def forwards_per_step(config: RunConfig) -> int:
    """Of one batch, in an optimizer step: all its micro-batches, a backward pass counting as two forwards."""
    _, micro_batches = _rows(config)
    if config.run.method in FIRST_ORDER:
        return micro_batches * (1 + BACKWARD)
    if config.run.method == "mezo":
        return micro_batches * 2
    from zoft.directions import DirectionSource
    from zoft.estimators import estimator

    if config.zo.zo_directions_schedule != "constant":
        raise UsageError(
            f"zo_directions_schedule={config.zo.zo_directions_schedule} makes steps of unequal cost, so no number of steps "
            "follows from equal forwards; take equal=steps or max_time"
        )
    made = estimator(config.zo.zo_estimator, eps=config.zo.zo_eps)
    return micro_batches * len(made.population(DirectionSource(0).at(0, config.zo.zo_directions)))


def _rows(config: RunConfig) -> tuple[int, int]:
    """(examples of a micro-batch, micro-batches of a step)."""
    batch, micro_batches = (config.training.get(key, training_fields()[key].default) for key in ROWS)
    return batch, micro_batches


def _by_the_clock(config: RunConfig) -> RunConfig:
    """No number of steps ends the run, so no schedule can be laid out over it: the learning rate is constant."""
    if config.run.max_time is None:
        raise UsageError("equal=time needs the time that each method gets; set max_time, or write budget=time:10m")
    schedule = config.training.get("lr_scheduler_type")
    if schedule in NO_LENGTH:
        return with_training(config, max_steps=WITHOUT_END)
    if config.sources.get("lr_scheduler_type") == COMMAND_LINE:
        raise UsageError(
            f"lr_scheduler_type={schedule} is laid out over max_steps, which equal time does not know; leave it out, or use "
            f"one of {', '.join(NO_LENGTH)}"
        )
    return with_training(config, max_steps=WITHOUT_END, lr_scheduler_type="constant")


def with_training(config: RunConfig, **changes: Any) -> RunConfig:
    """The run with these training settings, which the comparison chose."""
    sources = {**config.sources, **dict.fromkeys(changes, "zoft compare")}
    return replace(config, training={**config.training, **changes}, sources=sources)
