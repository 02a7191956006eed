"""Do all ranks train the same thing? Compared before the first step and every so many steps; who differs is named."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

from zoft.distributed import gather, gather_texts, world_size
from zoft.errors import ReplicaError, UsageError
from zoft.estimate import Flag, Step
from zoft.space import ParameterSpace


def odd_ones(values: Sequence[Hashable]) -> list[int]:
    """The ranks whose value is not the most frequent one; among equally frequent ones that of the lowest rank counts.

    >>> odd_ones("aab"), odd_ones("ba"), odd_ones("abb")
    ([2], [1], [0])
    """
    usual = Counter(values).most_common(1)[0][0]
    return [rank for rank, value in enumerate(values) if value != usual]


def require_equal(value: float, what: str) -> None:
    """Stop before training if the ranks do not start from the same place.

    Raises:
        UsageError: the value differs between ranks; the message names those that differ from the others.
    """
    everyone = [row[0] for row in gather([value])]
    odd = odd_ones([str(other) for other in everyone])  # as text: NaN equals NaN
    if odd:
        usual = next(other for rank, other in enumerate(everyone) if rank not in odd)
        raise UsageError(f"{_ranks(odd)} in the {what}: {everyone[odd[0]]!r}, not {usual!r}")


def require_same_settings(settings: Mapping[str, object]) -> None:
    """Stop before training if the processes were not all given the same settings.

    Raises:
        UsageError: a setting differs; the message names it, the ranks that differ and what they have.
    """
    if world_size() == 1:
        return
    names = sorted(settings)
    known = [row[0] for row in gather([float(_hash(names, 48))])]
    if len(set(known)) > 1:
        raise UsageError(
            f"{_ranks(odd_ones(known))} in which settings there are: the same zoft, and the same recipe, must run"
        )
    rows = gather([float(_hash(settings[name], 48)) for name in names])
    for index, name in enumerate(names):
        odd = odd_ones([row[index] for row in rows])
        if odd:
            given = gather_texts(str(settings[name]))
            usual = next(value for rank, value in enumerate(given) if rank not in odd)
            raise UsageError(
                f"{_ranks(odd)} in {name}: {given[odd[0]]}, not {usual}; start all processes with the same recipe and settings"
            )


class Agreement:
    """An observer of a `ZOOptimizer`: every `every` steps, all ranks must hold the same weights and have spent the same."""

    def __init__(self, space: ParameterSpace, every: int) -> None:
        self.space, self.every = space, every

    def reads_weights(self, step: int) -> bool:
        """Whether weights are compared after this step."""
        return (step + 1) % self.every == 0

    def __call__(self, step: Step) -> None:
        """Compare after `step`; the bytes of a comparison are 24 a rank.

        Raises:
            ReplicaError: a rank differs; the message names it and what differs.
        """
        alone = Flag.INTERRUPTED in step.flags  # an exception on this rank: the others are elsewhere
        if alone or not self.reads_weights(step.index):
            return
        mine = {
            "seed": step.estimate.directions[0].seed,
            "the step that was spent": _hash(step, 48),
            "weights": self.space.checksum() >> 16,
        }
        rows = gather([float(value) for value in mine.values()])
        for index, what in enumerate(mine):
            odd = odd_ones([row[index] for row in rows])
            if odd:
                raise ReplicaError(
                    f"{_ranks(odd)} in the {what} after step {step.index}, though all began alike: a fault of its machine, or "
                    "something else writes to its weights; resume from a checkpoint before this step"
                )


def _ranks(odd: Sequence[int]) -> str:
    shown = ", ".join(map(str, odd[:8])) + (" …" if len(odd) > 8 else "")
    return f"rank {shown} differs" if len(odd) == 1 else f"ranks {shown} differ"


def _hash(value: object, bits: int) -> int:
    """`bits` bits of blake2b over how `value` is written: a float64 holds up to 53 exactly."""
    return int.from_bytes(hashlib.blake2b(repr(value).encode(), digest_size=8).digest(), "big") >> (64 - bits)
