"""How many directions a step averages, by the step. Imports no torch: settings are checked with it."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from zoft.errors import UsageError
from zoft.limits import check_directions

WAYS = "constant, linear:Q@STEP (from zo_directions to Q at STEP), steps:Q@STEP,Q@STEP,… (Q from STEP on)"


@dataclass(frozen=True, slots=True)
class Schedule:
    """q, constant between given steps.

    >>> grows = Schedule.parse("steps:4@100,16@500", first=1)
    >>> [grows.at(step) for step in (0, 99, 100, 500)], Schedule.parse("linear:3@10", first=1).plain()
    ([1, 1, 4, 16], [[0, 1], [5, 2], [10, 3]])
    """

    parts: tuple[tuple[int, int], ...]  # (first step, q from there on), in order, from step 0

    def __post_init__(self) -> None:
        """Raises UsageError: steps that do not begin at 0 and ascend, or a q that no step can have."""
        steps = [step for step, _ in self.parts]
        if not steps or steps[0] != 0 or any(after <= before for before, after in pairwise(steps)):
            raise UsageError(f"zo_directions_schedule must name ascending steps above 0, not {steps}")
        for _, count in self.parts:
            check_directions("zo_directions_schedule", count)

    @classmethod
    def parse(cls, text: str, first: int) -> Schedule:
        """From the words of a setting; `first` is q at step 0.

        Raises:
            UsageError: not one of `WAYS`.
        """
        kind, _, rest = text.partition(":")
        try:
            pairs = [
                (int(step), int(count)) for count, _, step in (part.partition("@") for part in rest.split(",") if rest)
            ]
        except ValueError:
            kind, pairs = "", []
        if kind == "constant" and not rest:
            return cls(((0, first),))
        if kind == "steps" and pairs:
            return cls(((0, first), *pairs))
        if kind == "linear" and len(pairs) == 1 and pairs[0][0] > 0:
            ((last, count),) = pairs
            rises, turn = abs(count - first), 1 if count > first else -1
            reached = {math.ceil(last * k / rises): first + turn * k for k in range(1, rises + 1)}
            return cls(((0, first), *reached.items()))
        raise UsageError(f"zo_directions_schedule must be one of {WAYS}, but {text!r} was given")

    def at(self, step: int) -> int:
        """q of this step."""
        return self.parts[bisect_right(self.parts, (step, math.inf)) - 1][1]

    @property
    def counts(self) -> tuple[int, ...]:
        """Every q that it takes."""
        return tuple(count for _, count in self.parts)

    def plain(self) -> list[list[int]]:
        """For JSON."""
        return [list(part) for part in self.parts]

    @classmethod
    def of(cls, plain: list[Any]) -> Schedule:
        """From `plain`."""
        return cls(tuple((step, count) for step, count in plain))
