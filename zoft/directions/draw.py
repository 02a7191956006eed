"""Draw z, or rounding bits, over a window of a parameter."""

from __future__ import annotations

from dataclasses import replace

import torch

from zoft.directions.address import Window, counters
from zoft.directions.direction import Direction, Distribution, Domain
from zoft.directions.gaussian import normal_rows, normals
from zoft.directions.low_rank import LowRank, factors, product
from zoft.directions.mask import RandomMask, SmallWeights, kept, kept_rows
from zoft.directions.philox import philox4x32
from zoft.directions.rademacher import sign_rows, signs

ROUNDING_LANES = 16  # rows that one Philox call serves


def sees(direction: Direction, window: Window) -> bool:
    """Whether the direction moves this parameter at all: it has no block, or this one's."""
    return direction.block is None or direction.block == window.block


def for_window(direction: Direction, window: Window) -> Direction:
    """The direction as a parameter that it moves sees it: of no block, and dense if this is a vector, or knows its mask."""
    dense = window.total_columns == 1 or isinstance(direction.form, SmallWeights)
    form = None if dense else direction.form
    if form is direction.form and direction.block is None:
        return direction
    return replace(direction, form=form, block=None)


def draw(direction: Direction, window: Window, device: torch.device | str = "cpu") -> torch.Tensor:
    """z over `window`, float32 [rows, columns]. A window inside another gets the same numbers, bit for bit.

    Of small weights (`SmallWeights`) before the mask, which is the parameter's own.

    >>> w = Window.whole(stream=5, shape=(300, 4))
    >>> bool((draw(Direction(0, 0), w)[130:140] == draw(Direction(0, 0), w.panel(130, 140))).all())
    True
    """
    if not sees(direction, window):
        return torch.zeros(window.shape, device=device)
    direction = for_window(direction, window)
    if isinstance(direction.form, LowRank):
        return product(*factors(direction, window, torch.device(device)))
    if isinstance(direction.form, RandomMask):
        dense = draw(replace(direction, form=None), window, device)
        return dense * kept(direction, window, dense.device)
    sampler = signs if direction.distribution is Distribution.RADEMACHER else normals
    return sampler(window, direction.key, direction.counter_tag, torch.device(device))


def draw_rows(direction: Direction, window: Window, rows: torch.Tensor) -> torch.Tensor:
    """z on single rows: float32 [n, columns] for `rows` [n] int64, counted from the window's first.

    >>> w = Window.whole(stream=5, shape=(300, 4))
    >>> rows = torch.tensor([299, 0, 131, 131])
    >>> bool((draw_rows(Direction(0, 0), w, rows) == draw(Direction(0, 0), w)[rows]).all())
    True
    """
    if not sees(direction, window):
        return torch.zeros(len(rows), window.columns, device=rows.device)
    direction = for_window(direction, window)
    if isinstance(direction.form, RandomMask):
        return draw_rows(replace(direction, form=None), window, rows) * kept_rows(direction, window, rows)
    if isinstance(direction.form, LowRank):
        a, b = factors(direction, window, rows.device)
        return product(a[rows], b)
    sampler = sign_rows if direction.distribution is Distribution.RADEMACHER else normal_rows
    return sampler(window, rows, direction.key, direction.counter_tag)


def rounding_bits(seed: int, step: int, window: Window, device: torch.device | str = "cpu") -> torch.Tensor:
    """16 uniform bits for every element of `window`, int32 [rows, columns] in [0, 65536).

    Lane l of a block (row % 16) is the lower half of word l // 4, turned right by 8 (l % 4) bits; domain ROUNDING, index 0.
    Of the four lanes of a word each shares a byte with the next, as its upper one and the other's lower one: every lane is
    uniform, and of two rows, which round up or not, the covariance is at most 2^-10 (0.25 were they one).
    """
    address = Direction(seed, step, 0, domain=Domain.ROUNDING)
    words, offset = counters(window, address.counter_tag, ROUNDING_LANES, torch.device(device))
    lanes = [
        (word >> turn | word << (32 - turn)) & 0xFFFF
        for word in philox4x32(words, address.key)
        for turn in (0, 8, 16, 24)
    ]
    rows = torch.stack(lanes, dim=1).reshape(-1, window.columns)[offset : offset + window.rows]
    return rows.to(torch.int32)
