"""Draw z, or rounding bits, over a window of a parameter."""

from __future__ import annotations

from dataclasses import replace

import torch

from zoft.directions.address import Window, counters
from zoft.directions.direction import Direction, Distribution, Domain
from zoft.directions.gaussian import normal_rows, normals
from zoft.directions.low_rank import factors, product
from zoft.directions.philox import philox4x32
from zoft.directions.rademacher import sign_rows, signs

ROUNDING_LANES = 8


def for_window(direction: Direction, window: Window) -> Direction:
    """The direction as this parameter sees it: dense, if it is a vector."""
    return replace(direction, form=None) if direction.form is not None and window.total_columns == 1 else direction


def draw(direction: Direction, window: Window, device: torch.device | str = "cpu") -> torch.Tensor:
    """z over `window`, float32 [rows, columns]. A window inside another gets the same numbers, bit for bit.

    >>> w = Window.whole(stream=5, shape=(300, 4))
    >>> bool((draw(Direction(0, 0), w)[130:140] == draw(Direction(0, 0), w.panel(130, 140))).all())
    True
    """
    direction = for_window(direction, window)
    if direction.form is not None:
        return product(*factors(direction, window, torch.device(device)))
    sampler = signs if direction.distribution is Distribution.RADEMACHER else normals
    return sampler(window, direction.key, direction.counter_tag, torch.device(device))


def draw_rows(direction: Direction, window: Window, rows: torch.Tensor) -> torch.Tensor:
    """z on single rows: float32 [n, columns] for `rows` [n] int64, counted from the window's first.

    >>> w = Window.whole(stream=5, shape=(300, 4))
    >>> rows = torch.tensor([299, 0, 131, 131])
    >>> bool((draw_rows(Direction(0, 0), w, rows) == draw(Direction(0, 0), w)[rows]).all())
    True
    """
    direction = for_window(direction, window)
    if direction.form is not None:
        a, b = factors(direction, window, rows.device)
        return product(a[rows], b)
    sampler = sign_rows if direction.distribution is Distribution.RADEMACHER else normal_rows
    return sampler(window, rows, direction.key, direction.counter_tag)


def rounding_bits(seed: int, step: int, window: Window, device: torch.device | str = "cpu") -> torch.Tensor:
    """16 uniform bits for every element of `window`, int32 [rows, columns] in [0, 65536).

    Lane l of a block (row % 8) is half-word l % 2 (low first) of word l // 2; domain ROUNDING, index 0.
    """
    address = Direction(seed, step, 0, domain=Domain.ROUNDING)
    words, offset = counters(window, address.counter_tag, ROUNDING_LANES, torch.device(device))
    halves = [half for word in philox4x32(words, address.key) for half in (word & 0xFFFF, word >> 16)]
    flat = torch.stack(halves, dim=1).reshape(-1, window.columns)[offset : offset + window.rows]
    return flat.to(torch.int32)
