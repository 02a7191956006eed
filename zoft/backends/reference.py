"""The oracle: every op in plain torch, on any device. It defines the bits that faster backends must return."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from zoft.backends.base import Backend, Move, Point, Rounding, Target
from zoft.backends.fold import fold
from zoft.directions import Direction, Window, draw, draw_rows, rounding_bits
from zoft.directions.rademacher import LANES
from zoft.errors import UsageError

PANEL_ELEMENTS = 1 << 20  # z is drawn for about this many elements at a time
PANEL_ELEMENTS_GPU = 1 << 22  # there an operation on fewer takes less time than its launch


class ReferenceBackend(Backend):
    """Plain torch, panel by panel, so that no z as large as the weight ever exists."""

    name = "reference"

    def draw(self, direction: Direction, window: Window, device: torch.device) -> torch.Tensor:
        """z over a window: [rows, columns]."""
        return draw(direction, window, device)

    def draw_rows(self, direction: Direction, window: Window, rows: torch.Tensor) -> torch.Tensor:
        """z on single rows of a window: [n, columns]."""
        return draw_rows(direction, window, rows)

    def axpby_(self, target: Target, moves: Sequence[Move], rounding: Rounding = Rounding.NEAREST) -> None:
        weight, window = target.weight, target.window
        if weight.numel() != window.rows * window.columns:
            raise UsageError(f"a weight of {weight.numel()} elements cannot fill a window of {window.shape}")
        if weight.numel() == 0:
            return
        source = weight.detach().reshape(window.shape)  # a copy only where the weight is not contiguous
        sink = source if target.out is None else target.out.detach().view(window.shape)
        residual = None if target.residual is None else target.residual.view(window.shape)
        panel_rows = rows_of_a_panel(weight, window)
        for start in range(0, window.rows, panel_rows):
            rows = slice(start, min(start + panel_rows, window.rows))
            panel = window.panel(rows.start, rows.stop)
            high, low = source[rows], None if residual is None else residual[rows]
            for move in moves:
                high, low = self._apply(high, low, move, panel, target.decays, rounding)
            sink[rows] = high
            if residual is not None and target.out is None:
                residual[rows] = low  # type: ignore[assignment]
        if target.out is None and not weight.is_contiguous():
            weight.detach().copy_(sink.view(weight.shape))

    def dot(self, target: Target, direction: Direction) -> torch.Tensor:
        window = target.window
        source = target.weight.detach().reshape(window.shape)
        residual = None if target.residual is None else target.residual.view(window.shape)
        if target.weight.numel() == 0:  # also an empty shard in the middle of a block
            return fold(load(source.reshape(-1), None))
        first = window.row // LANES
        partials = []
        for block in range(first, -(-(window.row + window.rows) // LANES)):
            start = max(block * LANES - window.row, 0)
            stop = min((block + 1) * LANES - window.row, window.rows)
            x = load(source[start:stop], None if residual is None else residual[start:stop])
            products = x * self.draw(direction, window.panel(start, stop), x.device).to(x.dtype)
            total = torch.zeros_like(products[0])
            for row in products:
                total = total + row
            partials.append(total)
        return fold(torch.cat(partials))

    def panel_pair(
        self,
        target: Target,
        points: Sequence[Point],
        copies: torch.Tensor,
        moves: Sequence[Move] = (),
        rounding: Rounding = Rounding.NEAREST,
    ) -> None:
        if moves:
            self.axpby_(target, moves, rounding)
        for copy, point in zip(copies, points, strict=True):
            self.axpby_(Target(target.weight, target.window, out=copy), [Move(point)])

    def perturbed_embedding(self, ids: torch.Tensor, target: Target, points: Sequence[Point]) -> torch.Tensor:
        weight, window = target.weight.detach(), target.window
        rows = []
        for row_ids, point in zip(ids.reshape(len(points), -1), points, strict=True):
            value = load(weight.index_select(0, row_ids), None)
            for term in point:
                z = self.draw_rows(term.direction, window, row_ids).to(value.dtype)
                value = value + z * scalar(term.scale, value)
            rows.append(value.to(weight.dtype))
        return torch.stack(rows).reshape(*ids.shape, window.columns)

    def _apply(
        self, high: torch.Tensor, low: torch.Tensor | None, move: Move, window: Window, decays: bool, rounding: Rounding
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """One move on one panel: stored parts in, stored parts out."""
        accumulator = load(high, low)
        if decays and move.decay != 1.0:
            accumulator = accumulator * scalar(move.decay, accumulator)
        for term in move.terms:
            z = self.draw(term.direction, window, high.device).to(accumulator.dtype)
            accumulator = accumulator + z * scalar(term.scale, accumulator)
        if move.to_nearest and rounding is Rounding.STOCHASTIC:
            rounding = Rounding.NEAREST
        return _store(accumulator, high.dtype, low, move.rounding_key, window, rounding)


def add_(target: Target, dense: Callable[[slice], torch.Tensor], move: Move, rounding: Rounding) -> None:
    """x <- round(a x + y), panel by panel, on any device: what every backend does with a displacement y made of tensors.

    Elementwise torch rounds product and sum apart, so there is one order and one result.

    Args:
        dense: y of some rows of the target's window, [rows, columns], in the accumulator's type.
        move: its decay and rounding key count.
    """
    window = target.window
    weight = target.weight.detach().reshape(window.shape)  # a copy only where the weight is not contiguous
    residual = None if target.residual is None else target.residual.view(window.shape)
    panel_rows = rows_of_a_panel(weight, window)
    for start in range(0, window.rows, panel_rows):
        rows = slice(start, min(start + panel_rows, window.rows))
        low = None if residual is None else residual[rows]
        value = load(weight[rows], low)
        if target.decays and move.decay != 1.0:
            value = value * scalar(move.decay, value)
        value = value + dense(rows)
        panel = window.panel(rows.start, rows.stop)
        weight[rows], low = _store(value, weight.dtype, low, move.rounding_key, panel, rounding)
        if residual is not None:
            residual[rows] = low  # type: ignore[assignment]
    if not target.weight.is_contiguous():
        target.weight.detach().copy_(weight.view(target.weight.shape))


def rows_of_a_panel(weight: torch.Tensor, window: Window) -> int:
    """Whole blocks of signs: none is drawn twice."""
    elements = PANEL_ELEMENTS_GPU if weight.device.type == "cuda" else PANEL_ELEMENTS
    return max(LANES, elements // max(window.columns, 1) // LANES * LANES)


def scalar(value: float, like: torch.Tensor) -> torch.Tensor:
    """A scalar rounded to the accumulator's type, so that a product or sum with it is taken in that type.

    It stays on the host, from where a launch takes it along: to bring it to a GPU, the host would wait for all that runs there.
    Nothing is divided by it, since there torch multiplies by the reciprocal of such a scalar.
    """
    return torch.tensor(value, dtype=like.dtype)


def load(high: torch.Tensor, low: torch.Tensor | None) -> torch.Tensor:
    """The stored weight in the accumulator's type."""
    if low is None:
        return high if high.dtype in (torch.float32, torch.float64) else high.to(torch.float32)
    shift = 8 if low.dtype is torch.int8 else 0
    bits = (high.view(torch.int16).to(torch.int32) << 16) + (low.to(torch.int32) << shift)
    return bits.view(torch.float32)


def _store(
    value: torch.Tensor,
    dtype: torch.dtype,
    low: torch.Tensor | None,
    rounding_key: tuple[int, int],
    window: Window,
    rounding: Rounding,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Round a float32 (or float64) value to storage: `Rounding` says how."""
    if value.dtype is dtype:
        return value, None
    if rounding is Rounding.NEAREST:
        return value.to(dtype), None
    if rounding is Rounding.RESIDUAL16:
        return _split(value.view(torch.int32), shift=0)
    bits = rounding_bits(*rounding_key, window, value.device)
    if rounding is Rounding.RESIDUAL8:
        return _split((value.view(torch.int32) + (bits >> 8)) & ~0xFF, shift=8)
    return stochastic(value, dtype, bits), None


def _split(bits: torch.Tensor, shift: int) -> tuple[torch.Tensor, torch.Tensor]:
    """float32 bits into the nearest bfloat16 and the signed remainder (its lowest `shift` bits are zero and dropped)."""
    high = (bits + 0x8000) >> 16
    low = (bits - (high << 16)) >> shift
    return high.to(torch.int16).view(torch.bfloat16), low.to(torch.int8 if shift else torch.int16)


def stochastic(value: torch.Tensor, dtype: torch.dtype, bits: torch.Tensor) -> torch.Tensor:
    """Round float32 `value` to one of its two neighbours in `dtype`, up in magnitude with probability = the fraction cut off.

    bfloat16: add the 16 random bits to the 16 that will be cut, then cut. float16: the same on the 13 bits that a normal
    number loses (with the upper 13 random bits); below the smallest normal number, 2^-14, the grid is 2^-24 and the
    fraction is compared with all 16. Exact: P(up) is the fraction, to the resolution of the bits.
    """
    if dtype is torch.bfloat16:
        raised = ((value.view(torch.int32) + bits) >> 16).to(torch.int16).view(torch.bfloat16)
        return torch.where(torch.isfinite(value), raised, value.to(torch.bfloat16))
    if dtype is not torch.float16:
        raise UsageError(f"stochastic rounding is defined for bfloat16 and float16, not for {dtype}")
    normal = ((value.view(torch.int32) + (bits >> 3)) & ~0x1FFF).view(torch.float32)
    grid = value.abs() * 2.0**24  # exact: in units of the smallest subnormal
    floor = grid.floor()
    up = (bits.to(torch.float32) * 2.0**-16) < (grid - floor)
    subnormal = torch.copysign((floor + up.to(torch.float32)) * 2.0**-24, value)
    rounded = torch.where(value.abs() < 2.0**-14, subnormal, normal)
    return torch.where(torch.isfinite(value), rounded, value).to(torch.float16)
