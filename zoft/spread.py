"""Who evaluates what: ranks in groups, each with a share of a step's points; within a group, shares of the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from zoft.distributed import rank, world_size
from zoft.errors import UsageError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Spread:
    """rank = shard * groups + group. One group: every rank takes all points on a batch of its own (batch-parallel).

    As many groups as ranks: every rank takes its share of the points on the same batch (direction-parallel). Anything
    between mixes them.
    """

    groups: int = 1

    def check(self, directions: int, perturbation: str) -> None:
        """Raises UsageError: ranks or directions cannot be divided into this many groups, or weights would come apart."""
        if world_size() % self.groups:
            fitting = [n for n in range(1, world_size() + 1) if world_size() % n == 0 and directions % n == 0]
            raise UsageError(
                f"zo_direction_groups={self.groups} does not divide the {world_size()} process(es) that run; "
                f"start a multiple of {self.groups}, or take one of {fitting}"
            )
        if directions % self.groups:
            raise UsageError(
                f"zo_directions={directions} cannot be spread over zo_direction_groups={self.groups}: some would wait for "
                f"the others; take a multiple of {self.groups}"
            )
        if self.groups > 1 and perturbation == "in_place":
            raise UsageError(
                "perturbation=in_place leaves its rounding in the weights, and with zo_direction_groups every rank would be "
                "left with another one; use perturbation=read_only"
            )

    @property
    def shards(self) -> int:
        """Into how many parts the batch is divided."""
        return world_size() // self.groups

    @property
    def shard(self) -> int:
        return rank() // self.groups

    def share(self, count: int) -> int:
        """How many of `count` points one group takes at most; the groups' numbers differ by one at most."""
        return -(-count // self.groups)

    def mine(self, points: Sequence[T]) -> Sequence[T]:
        """This rank's points: consecutive ones, so that both points of a pair are on one rank."""
        group = rank() % self.groups
        return points[self._start(group, len(points)) : self._start(group + 1, len(points))]

    def ranks_of(self, point: int, count: int) -> tuple[list[int], int]:
        """(the ranks that evaluate this one of `count` points, by shard; its place among their points)."""
        group = ((point + 1) * self.groups - 1) // count
        return [shard * self.groups + group for shard in range(self.shards)], point - self._start(group, count)

    def _start(self, group: int, count: int) -> int:
        return group * count // self.groups
