"""Directions that are products of thin factors: Z = A B^T for a matrix [N, K], dense for a vector.

    low_rank    A = U / sqrt(r), B = V            U [N, r] of the step, V [K, r] of the period     (LOZO; EGGROLL: refresh 1)
    subspace    A = sqrt(N K) / r P S, B = Q      S [r, r] of the step, P, Q of the period         (SubZero)

U, V are drawn like dense directions, S of normals; P and Q have orthonormal columns, made of normals. A period is `refresh`
steps; its factors have the address of its first step: none is stored, and losses and update read the same ones. With
refresh = 1 each direction has factors of its own, else those of a period are shared. All elements of Z have mean 0 and
variance 1 over everything that is drawn, and E[vec Z vec Z^T] = I; with a period's factors given, Z stays in a subspace.
(Chen et al. 2024, "LOZO"; Yu et al. 2024, "SubZero"; Sarkar et al. 2025, "EGGROLL".)

Sums over r are taken in order, product and sum rounded apart; orthonormal columns by Gram and Schmidt in float64 with sums by
halves: the same bits everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch

from zoft.directions.address import Window
from zoft.directions.roots import root
from zoft.errors import UsageError

if TYPE_CHECKING:
    from zoft.directions.direction import Direction

Draw = Callable[["Direction", Window, torch.device], torch.Tensor]
SHAPES = ("low_rank", "subspace")


@dataclass(frozen=True, slots=True, weakref_slot=True)
class LowRank:
    """What thin factors a direction is the product of.

    Raises:
        UsageError: no such shape, or a rank or period below 1.
    """

    shape: str  # low_rank or subspace
    rank: int  # r; of a subspace at most min(N, K)
    refresh: int = 1  # steps for which V (P, Q) stay

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise UsageError(f"zo_shape {self.shape!r} does not exist; there are: dense, {', '.join(SHAPES)}")
        for name, value in (("zo_rank", self.rank), ("zo_refresh", self.refresh)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UsageError(f"{name} must be a whole number >= 1, not {value!r}")

    def tail(self, matrices: Iterable[tuple[int, int]]) -> float:
        """Most that E(w'z)^4 can be of ||w||^4, for normals, over matrices of these shapes [N, K] and vectors.

        Of one matrix 3 + 6/r for low_rank and 3 (1 + 2/r)^2 N K / ((N + 2) (K + 2)) with r <= min(N, K) for subspace, at
        w = a b^T; 3 for what is dense. Of several the largest (docs/methods.md).

        >>> LowRank("low_rank", 6).tail([(8, 8)]), LowRank("subspace", 8).tail([(64, 64), (1, 64)])
        (4.0, 8.727272727272728)
        """
        return max([3.0, *(self._tail(rows, columns) for rows, columns in matrices)])

    def _tail(self, rows: int, columns: int) -> float:
        if self.shape == "low_rank":
            return 3.0 + 6.0 / self.rank
        share = rows * columns / ((rows + 2) * (columns + 2))
        return 3.0 * (1.0 + 2.0 / min(self.rank, rows, columns)) ** 2 * share

    def plain(self) -> list[Any]:
        """For JSON."""
        return [self.shape, self.rank, self.refresh]

    density = 1.0  # all weights move


def factors(
    direction: Direction, window: Window, device: torch.device, draw: Draw | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """A [rows, r] and B [columns, r] of the window, float32: Z over it is A B^T; `draw` as in `left_factor`."""
    return left_factor(direction, window, device, draw), right_factor(direction, window, device, draw)


def left_factor(direction: Direction, window: Window, device: torch.device, draw: Draw | None = None) -> torch.Tensor:
    """A [rows, r]: what a step draws; `draw`: who draws dense directions, if not `zoft.directions.draw`."""
    form, direction = direction.form, replace(direction, block=None)
    assert isinstance(form, LowRank)
    if form.shape == "low_rank":
        return _dense(direction, drawn_windows(form, window)[0], device, draw) * left_scale(form)
    rows, columns, rank = _sizes(form, window)
    core = _dense(_normal(direction), Window(window.stream, 0, rank, 0, rank, rank, rank), device, draw)
    core = core * _single(math.sqrt(rows * columns) / rank)
    p = _basis(_of_period(direction, form, right=False), window.stream, rows, rank, device)
    return product(p[window.row : window.row + window.rows], core.t())


def right_factor(direction: Direction, window: Window, device: torch.device, draw: Draw | None = None) -> torch.Tensor:
    """B [columns, r]: what stays for a period, see `right_of`; `draw` as in `left_factor`."""
    form, direction = direction.form, replace(direction, block=None)
    assert isinstance(form, LowRank)
    if form.shape == "low_rank":
        return _dense(right_of(direction), drawn_windows(form, window)[1], device, draw)
    _, columns, rank = _sizes(form, window)
    q = _basis(right_of(direction), window.stream, columns, rank, device)
    return q[window.column : window.column + window.columns]


def drawn_windows(form: LowRank, window: Window) -> tuple[Window, Window]:
    """Of `low_rank`: where U [rows, r] and V [columns, r] of a window lie, as parameters of their own."""
    left = Window(window.stream, window.row, window.rows, 0, form.rank, form.rank, window.total_rows)
    return left, Window(window.stream, window.column, window.columns, 0, form.rank, form.rank, window.total_columns)


def left_scale(form: LowRank) -> torch.Tensor:
    """Of `low_rank`: A is U times this."""
    return _single(1.0 / math.sqrt(form.rank))


def _sizes(form: LowRank, window: Window) -> tuple[int, int, int]:
    """Rows and columns of the whole matrix, and the rank of its subspace."""
    rows, columns = window.total_rows, window.total_columns
    if not rows:
        raise UsageError("zo_shape=subspace must know how many rows the whole matrix has; use Window.whole")
    return rows, columns, min(form.rank, rows, columns)


def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """A B^T [n, m], added up over the columns in order."""
    z = a[:, 0, None] * b[None, :, 0]
    for k in range(1, a.shape[1]):
        z = z + a[:, k, None] * b[None, :, k]
    return z


def right_of(direction: Direction) -> Direction:
    """The address of the right factor: equal for directions that share it."""
    assert isinstance(direction.form, LowRank)
    return _of_period(direction, direction.form, right=True)


def _of_period(direction: Direction, form: LowRank, *, right: bool) -> Direction:
    """The address of what stays: that of the first step of the period, in a domain of its own."""
    from zoft.directions.direction import Distribution, Domain

    kinds = {Domain.TRAINING: (Domain.RIGHT, Domain.LEFT), Domain.PROBE: (Domain.PROBE_RIGHT, Domain.PROBE_LEFT)}
    shared = form.refresh > 1  # then probes look into the subspace that training moves in
    domain = kinds[Domain.TRAINING if shared else direction.domain][0 if right else 1]
    law = direction.distribution if form.shape == "low_rank" else Distribution.GAUSSIAN
    step = direction.step - direction.step % form.refresh
    return replace(direction, step=step, index=0 if shared else direction.index, domain=domain, distribution=law)


def _normal(direction: Direction) -> Direction:
    """Signs would make a small S singular."""
    from zoft.directions.direction import Distribution

    return replace(direction, distribution=Distribution.GAUSSIAN)


def _dense(direction: Direction, window: Window, device: torch.device, how: Draw | None = None) -> torch.Tensor:
    from zoft.directions.draw import draw

    return (how or draw)(replace(direction, form=None), window, device)


def _single(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float32)


Bases = dict[tuple[int, int, int, int, int, torch.device], tuple[tuple[int, int], torch.Tensor]]
_bases: WeakKeyDictionary[LowRank, Bases] = (
    WeakKeyDictionary()
)  # as long as somebody holds the form: a run's source does


def _basis(direction: Direction, stream: int, rows: int, rank: int, device: torch.device) -> torch.Tensor:
    """Orthonormal columns [rows, rank], float32, kept until the next period: the last of each matrix and direction."""
    assert isinstance(direction.form, LowRank)
    bases = _bases.setdefault(direction.form, {})
    key = (stream, int(direction.domain), direction.index, rows, rank, device)
    kept = bases.get(key)
    if kept is None or kept[0] != direction.key:
        normals = _dense(direction, Window(stream, 0, rows, 0, rank, rank, rows), device)
        kept = bases[key] = (direction.key, orthonormal(normals).to(torch.float32))
    return kept[1]


def orthonormal(columns: torch.Tensor) -> torch.Tensor:
    """Gram and Schmidt from left to right in float64: [n, r] independent columns to orthonormal ones, R_jj > 0.

    >>> orthonormal(torch.tensor([[3.0, 1.0], [4.0, 0.0]])).float().tolist() == torch.tensor([[0.6, 0.8], [0.8, -0.6]]).tolist()
    True
    """
    q = columns.to(torch.float64).clone()
    for j in range(q.shape[1]):
        q[:, j] = q[:, j] / root(column_sums(q[:, j, None] * q[:, j, None]))
        if j + 1 < q.shape[1]:
            shares = column_sums(q[:, j, None] * q[:, j + 1 :])
            q[:, j + 1 :] = q[:, j + 1 :] - q[:, j, None] * shares[None, :]
    return q


def column_sums(x: torch.Tensor) -> torch.Tensor:
    """Sums of columns by halves, in one order on every device."""
    while x.shape[0] > 1:
        half = x.shape[0] // 2
        rest = x[2 * half :]
        x = torch.cat([x[:half] + x[half : 2 * half], rest]) if rest.shape[0] else x[:half] + x[half : 2 * half]
    return x[0]
