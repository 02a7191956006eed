"""Which z: the address of a direction, and where the directions of a step come from."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from zoft.directions.low_rank import LowRank
from zoft.errors import UsageError

MAX_INDEX = 1 << 12  # directions (or probes) in one step: 12 bits of the counter


class Distribution(enum.StrEnum):
    """The law of the elements of z: independent, mean 0, variance 1."""

    RADEMACHER = "rademacher"
    GAUSSIAN = "gaussian"


class Domain(enum.IntEnum):
    """Disjoint parts of the counter space: no two uses of random bits can meet."""

    TRAINING = 0
    PROBE = 1
    ROUNDING = 2
    RIGHT, LEFT = 3, 4  # of thin factors, what stays for a period
    PROBE_RIGHT, PROBE_LEFT = 5, 6


@dataclass(frozen=True, slots=True)
class Direction:
    """One random direction z over all parameters, by its address.

    Raises:
        UsageError: seed or step outside [0, 2^32), or index outside [0, 4096): the address has no room for them.
    """

    seed: int  # of the run
    step: int  # of the optimizer
    index: int = 0  # of the direction (or probe) within its step
    distribution: Distribution = Distribution.RADEMACHER
    domain: Domain = Domain.TRAINING
    form: LowRank | None = None  # of a matrix; None: dense

    def __post_init__(self) -> None:
        for name, value, bits in (("seed", self.seed, 32), ("step", self.step, 32), ("index", self.index, 12)):
            if not 0 <= value < 1 << bits:
                raise UsageError(f"direction {name} {value} does not fit: it must lie in [0, 2^{bits})")

    @property
    def key(self) -> tuple[int, int]:
        """The Philox key."""
        return self.seed, self.step

    @property
    def counter_tag(self) -> int:
        """The upper 16 bits of the counter's second word: domain (4 bits), then index (12 bits).

        Raises:
            UsageError: the direction has thin factors, so its elements have no counter.
        """
        if self.form is not None:
            raise UsageError(
                f"zo_shape={self.form.shape} is drawn through its factors, which this backend does not know"
            )
        return (int(self.domain) << 12) | self.index


@dataclass(frozen=True, slots=True)
class DirectionSource:
    """All directions of a run, by step.

    >>> [d.index for d in DirectionSource(seed=0).at(step=7, count=2)]
    [0, 1]
    """

    seed: int
    distribution: Distribution = Distribution.RADEMACHER
    form: LowRank | None = None

    def direction(self, step: int, index: int) -> Direction:
        """The training direction with this address."""
        return Direction(self.seed, step, index, self.distribution, form=self.form)

    def at(self, step: int, count: int = 1) -> tuple[Direction, ...]:
        """The `count` training directions of optimizer step `step`."""
        return tuple(self.direction(step, index) for index in range(count))

    def probes_at(
        self, step: int, count: int = 1, distribution: Distribution = Distribution.RADEMACHER
    ) -> tuple[Direction, ...]:
        """`count` probe directions, of training's form: their own counter domain, so probing never changes its path."""
        return tuple(Direction(self.seed, step, index, distribution, Domain.PROBE, self.form) for index in range(count))
