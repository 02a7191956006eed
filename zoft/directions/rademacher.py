"""Signs: 128 of them from one Philox call."""

from __future__ import annotations

import torch

from zoft.directions.address import Window, block_counters, counters
from zoft.directions.philox import philox4x32

LANES = 128


def signs(window: Window, key: tuple[int, int], counter_tag: int, device: torch.device) -> torch.Tensor:
    """z[row, column] = 1 - 2 bit, bit = bit (row % 128) of the block ((row // 128) * K + column).

    Returns:
        float32 [rows, columns] of +1 and -1.
    """
    words, offset = counters(window, counter_tag, LANES, device)
    shift = torch.arange(32, dtype=torch.int64, device=device)[None, :, None]
    bits = torch.stack([(word[:, None, :] >> shift) & 1 for word in philox4x32(words, key)], dim=1)
    flat = bits.reshape(-1, window.columns)[offset : offset + window.rows]  # [blocks, 4, 32, columns] -> rows
    return (1 - 2 * flat).to(torch.float32)


def sign_rows(window: Window, rows: torch.Tensor, key: tuple[int, int], counter_tag: int) -> torch.Tensor:
    """z on single rows [n] int64 of the window: float32 [n, columns]."""
    row = window.row + rows
    words = torch.stack(philox4x32(block_counters(window, row // LANES, counter_tag), key))  # [4, n, columns]
    lane = (row % LANES)[:, None]
    word = words.gather(0, (lane // 32).expand(words.shape[1:])[None])[0]
    return (1 - 2 * ((word >> (lane % 32)) & 1)).to(torch.float32)
