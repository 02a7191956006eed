"""Which z: the address of a direction, and where the directions of a step come from."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

from zoft.directions.blocks import Blocks
from zoft.directions.form import Form, form_of
from zoft.directions.mask import SmallWeights
from zoft.errors import UsageError

SPHERE = "sphere"
LAWS = ("rademacher", "gaussian", SPHERE)
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
    BLOCK = 7  # which block of layers a step moves
    MASK = 8  # which weights of a matrix a period moves


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
    form: Form | None = None  # of a matrix; None: dense
    block: int | None = None  # of layers, outside which z is zero; None: all layers

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
            UsageError: the direction has thin factors, so its elements have no counter; or it is zero somewhere.
        """
        if self.block is not None:
            raise UsageError("zo_blocks makes directions of one block of layers, which this backend does not know")
        if self.form is not None:
            raise UsageError(
                f"zo_shape={self.form.shape} is drawn through its factors or mask, which this backend does not know"
            )
        return (int(self.domain) << 12) | self.index

    def plain(self) -> list[Any]:
        """For JSON."""
        own = [self.seed, self.step, self.index, self.distribution.value, int(self.domain), self.block]
        return [*own, *(self.form.plain() if self.form else ())]

    @classmethod
    def of(cls, plain: list[Any]) -> Direction:
        """From `plain`."""
        seed, step, index, distribution, domain, block, *form = plain
        return cls(seed, step, index, Distribution(distribution), Domain(domain), form_of(form), block)


@dataclass(frozen=True, slots=True)
class DirectionSource:
    """All directions of a run, by step.

    >>> [d.index for d in DirectionSource(seed=0).at(step=7, count=2)]
    [0, 1]
    """

    seed: int
    distribution: Distribution = Distribution.RADEMACHER
    form: Form | None = None
    blocks: Blocks | None = None
    sphere: bool = False  # normals are scaled to the length sqrt(d), by whoever takes losses along them

    @classmethod
    def of_law(cls, seed: int, law: str, form: Form | None = None, blocks: Blocks | None = None) -> DirectionSource:
        """`law`: rademacher, gaussian, or sphere, which are normals of one length.

        Raises:
            UsageError: sphere with a form, whose length says nothing of the part that moves.
        """
        if law != SPHERE:
            return cls(seed, Distribution(law), form, blocks)
        if form is not None:
            raise UsageError(f"zo_distribution=sphere scales dense directions, but zo_shape={form.shape} was given")
        return cls(seed, Distribution.GAUSSIAN, None, blocks, sphere=True)

    @property
    def law(self) -> str:
        """What `of_law` takes."""
        return SPHERE if self.sphere else self.distribution.value

    def direction(self, step: int, index: int) -> Direction:
        """The training direction with this address."""
        return Direction(self.seed, step, index, self.distribution, form=self.form, block=self.block(step))

    @property
    def shaped(self) -> bool:
        """Whether directions are anything but dense and over all layers."""
        return self.form is not None or self.blocks is not None

    @property
    def small(self) -> float | None:
        """The share of each matrix's weights, the smallest, that moves; None: it is not so that directions are masked."""
        return self.form.density if isinstance(self.form, SmallWeights) else None

    def block(self, step: int) -> int | None:
        """The block of layers that this step moves; None: all."""
        return None if self.blocks is None else self.blocks.at(self.seed, step)

    def at(self, step: int, count: int = 1) -> tuple[Direction, ...]:
        """The `count` training directions of optimizer step `step`."""
        return tuple(self.direction(step, index) for index in range(count))

    def probes_at(
        self, step: int, count: int = 1, distribution: Distribution = Distribution.RADEMACHER
    ) -> tuple[Direction, ...]:
        """`count` probe directions, of training's form and block: their own counter domain, so that probing never changes
        its path."""
        block = self.block(step)
        return tuple(
            Direction(self.seed, step, index, distribution, Domain.PROBE, self.form, block) for index in range(count)
        )
