"""The contract of a backend: what each op computes, to the last bit, whatever computes it."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch.nn import functional

from zoft.backends.low_rank import Scales, low_rank_products
from zoft.directions import Direction, Window, factors
from zoft.errors import UsageError

PANEL_BYTES = 32 << 20  # of scratch: what stays in a GPU's second-level cache


class Rounding(enum.StrEnum):
    """How a result that was computed in float32 becomes a stored 16-bit weight (no effect on float32 and float64).

    `residual8` and `residual16` keep a bfloat16 weight and 8 or 16 further bits of its float32 value beside it:
    float32 bits = (high << 16) + (low << 8 or low), with high = (bits + 0x8000) >> 16, so `high` is the nearest bfloat16
    (halves away from zero) and `low` is a signed remainder. `residual16` is float32 arithmetic; `residual8` rounds the
    remaining 8 bits stochastically.
    """

    NEAREST = "nearest"
    STOCHASTIC = "stochastic"
    RESIDUAL8 = "residual8"
    RESIDUAL16 = "residual16"

    @property
    def residual_dtype(self) -> torch.dtype | None:
        """The integer type that holds the low-order bits; None without them."""
        return {Rounding.RESIDUAL8: torch.int8, Rounding.RESIDUAL16: torch.int16}.get(self)


@dataclass(frozen=True, slots=True)
class Term:
    """scale * z."""

    direction: Direction
    scale: float
    waits: bool = False  # of an update that matrices still lack and vectors have (`zoft.backlog`): these do not see it


Factors = tuple[torch.Tensor, torch.Tensor]  # A [rows, r] and B [columns, r], float32: z is A B^T
Make = Callable[[Direction, Window, torch.device], Factors]
Point = tuple[Term, ...]  # a displacement from w; () is w itself


@dataclass(frozen=True, slots=True)
class Move:
    """x <- round(a x + scale_1 z_1 + scale_2 z_2 + ...), the one kind of write there is.

    Scalars are rounded to the accumulator's type (float32; float64 for float64 weights); products and sums are rounded
    one at a time in the order of `terms`.
    """

    terms: tuple[Term, ...]
    decay: float = 1.0  # a, for weights that decay; others take a = 1
    rounding_key: tuple[int, int] = (0, 0)  # (run seed, step) of the rounding bits
    to_nearest: bool = False  # where the sweep rounds stochastically, this move does not: perturbations are no updates


@dataclass(frozen=True, slots=True)
class Target:
    """Where a write goes: one parameter, or a shard or panel of it."""

    weight: torch.Tensor  # read, and written unless `out` is given
    window: Window  # the weight's place in the whole parameter; weight.numel() == window.rows * window.columns
    decays: bool = False  # does Move.decay apply
    residual: torch.Tensor | None = None  # int8 or int16, same shape: low-order bits, read and written
    out: torch.Tensor | None = None  # write here instead, leaving `weight` (and `residual`) as they are


def panel_of(target: Target, start: int, stop: int) -> Target:
    """Rows `start` to `stop` of a matrix, with what lies beside them."""
    residual = None if target.residual is None else target.residual[start:stop]
    return Target(target.weight.detach()[start:stop], target.window.panel(start, stop), target.decays, residual)


def runs(moves: Sequence[Move], rounding: Rounding) -> list[tuple[list[Move], Rounding]]:
    """Consecutive moves that round alike, with that rounding: for backends that take one rounding a pass.

    >>> [(len(some), how.value) for some, how in runs([Move(()), Move((), to_nearest=True)], Rounding.STOCHASTIC)]
    [(1, 'stochastic'), (1, 'nearest')]
    """
    if rounding is not Rounding.STOCHASTIC:
        return [(list(moves), rounding)]
    return [
        (list(some), Rounding.NEAREST if nearest else rounding)
        for nearest, some in groupby(moves, key=lambda move: move.to_nearest)
    ]


def wide(weight: torch.Tensor) -> torch.dtype:
    """The accumulator's type for a weight."""
    return torch.float64 if weight.dtype is torch.float64 else torch.float32


class Backend(ABC):
    """The ops of zoft. Every backend returns the bits of `zoft.backends.reference`."""

    name: str

    @abstractmethod
    def axpby_(self, target: Target, moves: Sequence[Move], rounding: Rounding = Rounding.NEAREST) -> None:
        """Apply `moves` in order to one target, rounding to storage after each.

        The result equals that of one pass over the weights per move, so a backend may fuse them into one pass.
        `target.out`, where given, has the weight's shape and dtype.

        Raises:
            UsageError: the dtype, layout or rounding cannot be handled; the message names it.
        """

    def sweep_(self, targets: Sequence[Target], moves: Sequence[Move], rounding: Rounding = Rounding.NEAREST) -> None:
        """`axpby_` over many targets: all the parameters of a model."""
        for target in targets:
            self.axpby_(target, moves, rounding)

    def factors(self, direction: Direction, window: Window, device: torch.device) -> Factors:
        """A and B of a direction with thin factors over a window."""
        return factors(direction, window, device)

    def takes_factors(self, target: Target) -> bool:
        """Whether `along_factors_` can be had for this target; otherwise directions with factors are formed by plain torch."""
        return False

    def along_factors_(self, targets: Sequence[Target], moves: Sequence[Move], rounding: Rounding, make: Make) -> None:
        """`sweep_` over matrices along directions of which some are products of thin factors.

        Args:
            make: gives A [rows, r] and B [columns, r] of a direction over a window, float32.
        """
        raise NotImplementedError(f"the {self.name} backend takes no factors")

    @abstractmethod
    def dot(self, target: Target, direction: Direction) -> torch.Tensor:
        """<x, z>, a scalar in the accumulator's type on the weight's device (no wait for it).

        One order for every backend: down each column of each block of 128 rows, from zero, product and sum rounded apart;
        the partial sums (block rows by columns, in that order) are then added by halves: `zoft.backends.fold`.
        """

    @abstractmethod
    def panel_pair(
        self,
        target: Target,
        points: Sequence[Point],
        copies: torch.Tensor,
        moves: Sequence[Move] = (),
        rounding: Rounding = Rounding.NEAREST,
    ) -> None:
        """Read a weight once: apply the pending `moves` to it, then write the weight displaced by every point.

        Equal to `axpby_(target, moves, rounding)` followed by one `axpby_` to nearest into each copy. The copies show the
        weight as it is stored, without its residual bits, as a forward pass at w itself would.

        Args:
            target: a matrix, or a panel or a vector of parameters; `out` must be None.
            points: the population, often (+eps z, -eps z).
            copies: [points, *weight.shape], contiguous, of the weight's dtype.
            moves: the pending update; () leaves the weight alone.
            rounding: of the update.
        """

    @abstractmethod
    def perturbed_embedding(self, ids: torch.Tensor, target: Target, points: Sequence[Point]) -> torch.Tensor:
        """Rows of w + s z for a population: only the rows that are looked up are displaced.

        Args:
            ids: [points, ...] int64, rows of the weight; member g of the population reads ids[g].
            target: the whole matrix or a panel of rows of it; residual bits are not shown.
            points: the population.

        Returns:
            [*ids.shape, columns], bit for bit the rows of the displaced weight.
        """

    def perturbed_linear(
        self,
        x: torch.Tensor,
        target: Target,
        points: Sequence[Point],
        panel_bytes: int = PANEL_BYTES,
        bias: torch.Tensor | None = None,
        moves: Sequence[Move] = (),
        rounding: Rounding = Rounding.NEAREST,
    ) -> torch.Tensor:
        """x[g] (W + s_g z)^T + b_g for every member g of a population, through panels of rows of W in scratch memory.

        The panels are exact whatever their size; the products are the vendor's, rounded once with the bias in them.

        Args:
            x: [points, ..., columns], of the weight's dtype.
            target: a matrix [rows, columns] or a panel of rows of one.
            points: the population.
            panel_bytes: of scratch for all members together; at least one row is held.
            bias: [rows], or [points, rows] where the members' differ.
            moves: the pending update, made in the same reading; made wholly, also where a product raises. () leaves W alone.
            rounding: of the update.

        Returns:
            [points, ..., rows].

        Raises:
            UsageError: x does not belong to these points and this weight.
        """
        made, whole = 0, target.window.rows  # rows whose update is made
        try:
            flat, step = check_linear(x, target, points, panel_bytes)
            columns = target.window.columns
            y = x.new_empty(len(points), flat.shape[1], whole) if step < whole else x
            scratch = x.new_empty(len(points) * min(step, whole) * columns)
            for start in range(0, whole, step):
                stop = min(start + step, whole)
                copies = scratch[: len(points) * (stop - start) * columns].view(len(points), stop - start, columns)
                self.panel_pair(panel_of(target, start, stop), points, copies, moves, rounding)
                made = stop
                some = products(flat, copies, None if bias is None else bias[..., start:stop])
                if step < whole:
                    y[:, :, start:stop] = some
                else:
                    y = some
        except Exception:
            if moves and made < whole:
                self.axpby_(panel_of(target, made, whole), moves, rounding)
            raise
        return y.reshape(*x.shape[:-1], target.window.rows)

    def low_rank(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        left: torch.Tensor,
        right: torch.Tensor,
        scales: Scales,
        bias: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """x[g] (W + s_g A_g B_g^T)^T for every member g of a population, as x W^T + s_g (x[g] B_g) A_g^T.

        The product with W is one, of the vendor, for the rows of all members; nothing as large as W is made. Factors that
        several members share (the two signs of a direction) may be expanded views.

        Args:
            x: [points, ..., columns].
            weight: W [rows, columns]; one dtype for all tensors.
            left: A [points, rows, rank].
            right: B [points, columns, rank].
            scales: s, one a member, 0 being W itself; or one for each of its rank-one parts, a tensor [points, rank] in the
                accumulator's type.
            bias: [rows], or [points, rows] where the members' differ.

        Returns:
            [points, ..., rows].

        Raises:
            UsageError: shapes or dtypes that do not belong together.
        """
        return low_rank_products(x, weight, left, right, scales, bias)

    def low_rank_ready(
        self, weight: torch.Tensor, left: torch.Tensor, right: torch.Tensor, scales: Scales, bias: torch.Tensor | None
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        """`low_rank` as a function of x alone; the other tensors are read when it is called, and stay where they are."""
        return lambda x: self.low_rank(x, weight, left, right, scales, bias)

    def thin_ready(
        self, target: Target, points: Sequence[Point], bias: torch.Tensor | None
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        """`thin_linear` of all rows as a function of x alone, until factors are drawn for other points."""
        return lambda x: self.thin_linear(x, target, points, bias)

    def thin_linear(
        self,
        x: torch.Tensor,
        target: Target,
        points: Sequence[Point],
        bias: torch.Tensor | None = None,
        ids: torch.Tensor | slice | None = None,
    ) -> torch.Tensor:
        """x[g] (W + Z_g)^T + b_g for points along thin factors: one product with W for all members, thin products beside it.

        Args:
            x: [points, ..., columns], of the weight's type.
            target: the whole matrix.
            points: the population; all terms have factors.
            bias: [rows wanted], or [points, rows wanted] where the members' differ.
            ids: the rows of the weight that are wanted, by number or those between two; None: all.

        Returns:
            [points, ..., rows wanted].
        """
        raise NotImplementedError(
            f"the {self.name} backend takes no points along thin factors; wrap it: zoft.backends.shaped"
        )


def products(x: torch.Tensor, weights: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """x[g] W[g]^T + b_g, [members, ..., outputs], the bias inside the product's one rounding.

    One product for all members is quicker than one each, and than products that are told where to write.

    Args:
        x: [members, ..., columns].
        weights: [members, outputs, columns].
        bias: [outputs] or [members, outputs].
    """
    if len(x) == 1:
        return functional.linear(x[0], weights[0], bias if bias is None or bias.ndim == 1 else bias[0]).unsqueeze(0)
    rows, matrices = x.reshape(len(x), -1, x.shape[-1]), weights.transpose(1, 2)
    if bias is None:
        y = torch.bmm(rows, matrices)
    else:
        y = torch.baddbmm(bias.view(-1, 1, bias.shape[-1]), rows, matrices)
    return y.view(*x.shape[:-1], y.shape[-1])


def check_linear(
    x: torch.Tensor, target: Target, points: Sequence[Point], panel_bytes: int
) -> tuple[torch.Tensor, int]:
    """x as [points, tokens, columns] and the rows of a panel, for `perturbed_linear`.

    Raises:
        UsageError: x does not belong to these points and this weight.
    """
    weight, columns = target.weight, target.window.columns
    if x.ndim < 2 or x.shape[0] != len(points) or x.shape[-1] != columns or x.dtype is not weight.dtype:
        raise UsageError(
            f"perturbed_linear wants x [{len(points)}, ..., {columns}] {weight.dtype}, not {tuple(x.shape)} {x.dtype}"
        )
    most = panel_bytes // (columns * len(points) * weight.element_size())
    return x.reshape(len(points), -1, columns), max(
        1, most // 128 * 128 or most
    )  # whole blocks of signs where they fit
