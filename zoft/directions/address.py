"""From an element of a parameter to its block and lane (docs/design.md, "Address of a random number")."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from zoft.directions.philox import Words

_MASK = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of a parameter seen as a matrix [total_rows, total_columns]: a whole tensor, a panel of it or a shard.

    One dimension: row = element, one column. More than two: the leading dimensions flatten into rows.
    """

    stream: int  # 64-bit, from the parameter's canonical name
    row: int  # first row
    rows: int
    column: int  # first column
    columns: int
    total_columns: int  # of the whole parameter
    total_rows: int = 0  # likewise; 0: not known
    block: int = 0  # of layers, to which the parameter belongs

    @classmethod
    def whole(cls, stream: int, shape: tuple[int, ...] | torch.Size, block: int = 0) -> Window:
        """The window that covers a parameter of this shape.

        >>> Window.whole(1, (2, 3, 5)).rows, Window.whole(1, (7,)).total_columns
        (6, 1)
        """
        rows, columns = matrix_shape(shape)
        return cls(stream, 0, rows, 0, columns, columns, rows, block)

    def panel(self, start: int, stop: int) -> Window:
        """Rows [start, stop) of this window."""
        return replace(self, row=self.row + start, rows=stop - start)

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows, self.columns


def matrix_shape(shape: tuple[int, ...] | torch.Size) -> tuple[int, int]:
    """(rows, columns) of a tensor's matrix view.

    >>> matrix_shape(()), matrix_shape((4,)), matrix_shape((4, 6)), matrix_shape((2, 3, 5))
    ((1, 1), (4, 1), (4, 6), (6, 5))
    """
    if len(shape) < 2:
        return math.prod(shape), 1
    return math.prod(shape[:-1]), shape[-1]


def counters(window: Window, counter_tag: int, lanes: int, device: torch.device) -> tuple[Words, int]:
    """The Philox counters of every block that the window touches, as [block rows, columns] int64.

    Returns:
        The four counter words and the row of the window's first element inside the first block row.
    """
    first = window.row // lanes
    last = (window.row + window.rows - 1) // lanes
    block_row = torch.arange(first, last + 1, dtype=torch.int64, device=device)
    return block_counters(window, block_row, counter_tag), window.row - first * lanes


def block_counters(window: Window, block_row: torch.Tensor, counter_tag: int) -> Words:
    """The Philox counters of some block rows [n] int64 over the window's columns, as [n, columns] int64."""
    column = torch.arange(window.column, window.column + window.columns, dtype=torch.int64, device=block_row.device)
    block = block_row[:, None] * window.total_columns + column[None, :]
    high = (block >> 32) & 0xFFFF
    return (
        block & _MASK,
        high | (counter_tag << 16),
        torch.full_like(block, window.stream & _MASK),
        torch.full_like(block, window.stream >> 32),
    )
