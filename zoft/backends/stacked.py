"""The factors of many thin directions side by side, kept from one step to the next.

Points may lie along dozens of directions, all but the last of them those of the point before. Their factors stay where they
are, one block of rows of a table for each; what differs between points is a table of scales. So

    y[g] = x[g] W^T + ((x[g] [B_1 B_2 …]) * scales[g]) [A_1 A_2 …]^T

for all members g of a population, with one product for all directions on either side (`Backend.low_rank`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from zoft.backends.base import Backend, Factors, Make, Move, Point, Target, Term, wide
from zoft.directions import Direction, LowRank, Window
from zoft.directions.low_rank import drawn_windows, left_scale, right_of

Tables = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
MUCH = 4  # times as many directions as a member has: then each member is given a table of its own


@dataclass
class _Columns:
    """Of one weight: whose factors lie where."""

    directions: list[Direction] = field(default_factory=list)
    left: torch.Tensor | None = None  # [room, rows]
    right: torch.Tensor | None = None  # [room, columns]
    rank: int = 0
    views: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    def bring(self, wanted: list[Direction], target: Target, make: Make) -> int:
        """Let the factors of `wanted` stand in front, in this order; how many rows of the tables that is."""
        if self.directions[: len(wanted)] == wanted:
            return len(wanted) * self.rank
        pairs = enumerate(zip(self.directions, wanted, strict=False))
        same = next((place for place, (kept, z) in pairs if kept != z), min(len(self.directions), len(wanted)))
        del self.directions[same:]
        for place, direction in enumerate(wanted[same:], start=same):
            left, right = make(direction, target.window, target.weight.device)
            self.rank = left.shape[1]
            self._make_room(len(wanted) * self.rank, place * self.rank, target)
            here = slice(place * self.rank, (place + 1) * self.rank)
            self.left[here], self.right[here] = left.t(), right.t()  # type: ignore[index]
            self.directions.append(direction)
        return len(wanted) * self.rank

    def _make_room(self, needed: int, used: int, target: Target) -> None:
        if self.left is not None and len(self.left) >= needed:
            return
        room, weight = max(needed, 2 * used), target.weight
        for name, size in (("left", target.window.rows), ("right", target.window.columns)):
            table, before = weight.new_zeros(room, size), getattr(self, name)
            if before is not None:
                table[:used] = before[:used]
            setattr(self, name, table)
        self.views.clear()

    def of_members(self, plan: _Plan, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A [points, rows, R] and B [points, columns, R] from the first `count` rows of the tables."""
        assert self.left is not None and self.right is not None
        if plan.picked:
            return plan.pick(self.left, self.rank), plan.pick(self.right, self.rank)
        key = (len(plan.points), count)
        if key not in self.views:
            left, right = (table[:count].t().expand(key[0], -1, -1) for table in (self.left, self.right))
            self.views[key] = left, right
        return self.views[key]


class _Plan:
    """The directions of some points, and every point's scale along each."""

    def __init__(self, points: Sequence[Point], seen: Sequence[Sequence[Term]]) -> None:
        self.points = tuple(points)
        places: dict[Direction, int] = {}
        for terms in seen:
            for term in terms:
                places.setdefault(term.direction, len(places))
        self.directions = list(places)
        own = max((len(terms) for terms in seen), default=0)
        self.picked = MUCH * own < len(places)
        self._places = [[places[term.direction] for term in terms] + [0] * (own - len(terms)) for terms in seen]
        rows = [[0.0] * (own if self.picked else len(places)) for _ in seen]
        for row, terms, mine in zip(rows, seen, self._places, strict=True):
            for i, term in enumerate(terms):
                row[i if self.picked else mine[i]] += term.scale
        self._scales = torch.tensor(rows, dtype=torch.float64)
        self._made: dict[tuple[int, torch.dtype, torch.device], torch.Tensor] = {}

    def is_of(self, points: Sequence[Point]) -> bool:
        """The same objects and not equal ones: a view hands the same point to all modules of a pass."""
        return len(points) == len(self.points) and all(a is b for a, b in zip(points, self.points, strict=True))

    def scales(self, rank: int, like: torch.Tensor) -> torch.Tensor:
        """[points, directions x rank] in the accumulator's type; where they are picked, of each point's own directions."""
        key = (rank, wide(like), like.device)
        if key not in self._made:
            self._made[key] = self._scales.repeat_interleave(rank, 1).to(key[2], key[1])
        return self._made[key]

    def pick(self, table: torch.Tensor, rank: int) -> torch.Tensor:
        """[points, n, R]: from a table the rows of each point's own directions."""
        places = torch.tensor(self._places, device=table.device).unsqueeze(2) * rank
        rows = (places + torch.arange(rank, device=table.device)).flatten(1)
        return table[rows].transpose(1, 2)


class Stacked:
    """The tables of all weights."""

    def __init__(self, make: Make) -> None:
        """`make`: A [rows, r] and B [columns, r] of a direction over a window."""
        self._make = make
        self._columns: dict[tuple[Window, torch.device, torch.dtype], _Columns] = {}
        self._plans: dict[int, _Plan] = {}  # by block of layers

    def tables(
        self, points: Sequence[Point], target: Target, seen: Callable[[Point, Target], Sequence[Term]]
    ) -> Tables:
        """A [points, rows, R] and B [points, columns, R] in the weight's type, and scales [points, R].

        R is the sum of all ranks; where members have few of them, of the most that one has.

        Args:
            seen: the terms of a point as a target sees them: the same for all matrices of a block.
        """
        weight, window = target.weight, target.window
        plan = self._plans.get(window.block)
        if plan is None or not plan.is_of(points):
            plan = self._plans[window.block] = _Plan(points, [seen(point, target) for point in points])
        key = (window, weight.device, weight.dtype)
        columns = self._columns.get(key) or self._columns.setdefault(key, _Columns())
        count = columns.bring(plan.directions, target, self._make)
        if columns.left is None or columns.right is None:  # all points are the centre
            sizes = (window.rows, window.columns)
            left, right = (weight.new_zeros(len(points), size, 0) for size in sizes)
            return left, right, plan.scales(0, weight)
        return *columns.of_members(plan, count), plan.scales(columns.rank, weight)


def stacked_rows(ids: torch.Tensor, weight: torch.Tensor, tables: Tables) -> torch.Tensor:
    """Rows of W + sum_k s_gk A_k B_k^T: [points, ..., columns] for ids [points, ...], added in the accumulator's type."""
    left, right, scales = tables
    kind, wanted = wide(weight), ids.reshape(len(scales), -1)
    rows = weight.detach()[wanted].to(kind)
    for own, where, a, b, scale in zip(rows, wanted, left, right, scales, strict=True):
        own += (a[where].to(kind) * scale) @ b.t().to(kind)
    return rows.to(weight.dtype).view(*ids.shape, weight.shape[1])


def is_whole(window: Window) -> bool:
    """Whether a window covers all of its parameter."""
    return window.shape == (window.total_rows, window.total_columns)


def drawn_together(
    direction: Direction, form: LowRank, windows: Sequence[Window], device: torch.device, backend: Backend
) -> Mapping[Window, Factors]:
    """`factors` of a direction of `low_rank` over many windows, in one sweep of the backend for A and one for B."""
    plain = replace(direction, block=None)
    sides = zip(*(drawn_windows(form, window) for window in windows), strict=True)
    made = []
    for side, z in zip(sides, (plain, right_of(plain)), strict=True):
        flat = torch.full((sum(own.rows for own in side), form.rank), -0.0, device=device)
        parts = flat.split([own.rows for own in side])
        targets = [Target(part, own) for part, own in zip(parts, side, strict=True)]
        backend.sweep_(targets, (Move((Term(replace(z, form=None), 1.0),)),))
        made.append((flat, parts))
    made[0][0].mul_(left_scale(form))
    return dict(zip(windows, zip(made[0][1], made[1][1], strict=True), strict=True))
