"""Block-wise directions: each step moves one block of layers, in turn or at random; z is zero everywhere else.

    block of step t     t mod n                     cyclic
                        floor(n u / 2^32)           random, u 32 bits by the address (seed, t), domain BLOCK

A unit is what lies under the first number in a parameter's canonical name (`decoder.layers.3`); where there is none, the
module that holds it (`decoder.embed_tokens`). n blocks are runs of neighbouring units, as many in each as can be. An estimate
is unbiased for the gradient of its block, so in the mean over blocks it is 1/n of the gradient; what bounds a step is the
trace of the Hessian's own block. (Wang et al. 2024, "LeZO"; Luo et al. 2024, "BAdam", for the order by turns.)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from zoft.directions.philox import philox4x32
from zoft.errors import UsageError

ORDERS = ("cyclic", "random")


@dataclass(frozen=True, slots=True)
class Blocks:
    """How many blocks, and which one a step moves.

    Raises:
        UsageError: fewer than 2, or no such order.
    """

    count: int
    order: str = "cyclic"

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise UsageError(f"zo_block_order {self.order!r} does not exist; there are: {', '.join(ORDERS)}")
        if isinstance(self.count, bool) or not isinstance(self.count, int) or self.count < 2:
            raise UsageError(f"zo_blocks must be a whole number >= 2 to divide anything, not {self.count!r}")

    def at(self, seed: int, step: int) -> int:
        """The block that moves in this step.

        >>> [Blocks(3).at(0, step) for step in range(4)]
        [0, 1, 2, 0]
        """
        return step % self.count if self.order == "cyclic" else _drawn(seed, step, self.count)

    def plain(self) -> list[Any]:
        """For JSON."""
        return [self.count, self.order]

    @classmethod
    def of(cls, plain: list[Any]) -> Blocks | None:
        """From `plain`; of an empty list None, which is all parameters at once."""
        return cls(*plain) if plain else None


@lru_cache(maxsize=64)
def _drawn(seed: int, step: int, count: int) -> int:
    from zoft.directions.direction import Domain

    zero = torch.zeros((), dtype=torch.int64)
    word = philox4x32((zero, zero + (int(Domain.BLOCK) << 28), zero, zero), (seed, step))[0]
    return int(word) * count >> 32


def unit_of(name: str) -> str:
    """The layer that a parameter belongs to.

    >>> unit_of("model.decoder.layers.3.fc1.weight"), unit_of("model.decoder.embed_tokens.weight"), unit_of("scale")
    ('model.decoder.layers.3', 'model.decoder.embed_tokens', 'scale')
    """
    parts = name.split(".")
    for place, part in enumerate(parts[:-1]):
        if part.isdigit():
            return ".".join(parts[: place + 1])
    return ".".join(parts[:-1]) or name


def block_numbers(names: Iterable[str], count: int) -> dict[str, int]:
    """Name -> number of its block.

    Raises:
        UsageError: there are fewer units than blocks.

    >>> block_numbers(["e.weight", "l.0.a.weight", "l.0.b.weight", "l.1.a.weight", "norm.weight"], 2)
    {'e.weight': 0, 'l.0.a.weight': 0, 'l.0.b.weight': 0, 'l.1.a.weight': 1, 'norm.weight': 1}
    """
    names = list(names)
    units = {unit: place for place, unit in enumerate(dict.fromkeys(map(unit_of, names)))}
    if count > len(units):
        raise UsageError(
            f"zo_blocks={count} was asked for, but what is trained has {len(units)} layers to divide: "
            f"{', '.join(list(units)[:4])}{' …' if len(units) > 4 else ''}; take {len(units)} or fewer"
        )
    return {name: units[unit_of(name)] * count // len(units) for name in names}
