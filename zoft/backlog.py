"""Updates that matrices lack: along thin directions a step leaves them alone, and many are merged into the weights at once.

Written at every step, an update reads and writes all weights for the sake of a few columns. Instead

    W  <-  round(a W + sum_k c_k A_k B_k^T)      every so many steps, one move for all of them, rounded once
    x (W + sum_k c_k A_k B_k^T + s A B^T)^T      the losses in between, through the factors

Vectors, whose directions are dense, are moved at every step. Scales are rounded to the accumulator's type as they come and
added up in float64 where directions return (a momentum's do), so that a log that holds them rounded leads to the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zoft.backends import Move, Point, Term
from zoft.directions import Direction


class Backlog:
    """The sum of the moves that matrices lack, as one move."""

    def __init__(self, every: int = 1, *, wide: bool = False) -> None:
        """
        Args:
            every: moves after which the sum is due; 1: nothing is ever kept.
            wide: some weight is float64, and so are the scalars.
        """
        self.every, self._round = every, np.float64 if wide else np.float32
        self._scales: dict[Direction, float] = {}
        self._moves, self._decay, self._key = 0, 1.0, (0, 0)
        self.point: Point = ()  # what stands in front of every point at which losses are taken

    def __bool__(self) -> bool:
        return self._moves > 0

    @property
    def keeps(self) -> bool:
        """Whether matrices wait at all."""
        return self.every > 1

    @property
    def due(self) -> bool:
        """Enough has come together; or a decay is among it, which is no displacement along directions."""
        return self._moves >= self.every or self._decay != 1.0

    def add(self, move: Move) -> None:
        """x <- a x + sum s z after what is there already: a times the sum, plus the terms."""
        if move.decay != 1.0:
            self._scales = {direction: move.decay * scale for direction, scale in self._scales.items()}
        for term in move.terms:
            self._scales[term.direction] = self._scales.get(term.direction, 0.0) + float(self._round(term.scale))
        self._moves, self._decay, self._key = self._moves + 1, self._decay * move.decay, move.rounding_key
        self.point = tuple(Term(direction, scale, waits=True) for direction, scale in self._scales.items())

    def take(self) -> Sequence[Move]:
        """The move that brings matrices up to date, with the rounding bits of the last that went into it; () if none did."""
        if not self:
            return ()
        terms = tuple(Term(direction, scale) for direction, scale in self._scales.items())
        move = Move(terms, decay=self._decay, rounding_key=self._key)
        self._scales, self._moves, self._decay, self.point = {}, 0, 1.0, ()
        return (move,)
