"""What the monitor averages over the steps of one block of layers."""

from __future__ import annotations

import math
from typing import Any

from zoft.stability.averages import Average, SignalFraction

SQUARE_DECAY = 0.95  # of the mean square slope in the drift bound
SIZE_DECAY = 0.99  # of the mean size of a slope, by which sign descent is measured


class Own:
    """Slopes of the steps that move one block. Blocks differ: what one averages says nothing of another."""

    def __init__(self, batch_fraction: float) -> None:
        self.signal = SignalFraction(batch_fraction)
        self.square = Average(SQUARE_DECAY)  # p^2, mean over directions
        self.size = Average(SIZE_DECAY)  # |q c|

    def rms(self, square: float = 0.0) -> float:
        """p_rms of a step with this p^2 or of the last ones, whichever is larger."""
        return math.sqrt(max(square, self.square.value if self.square.count else 0.0))

    def state(self) -> dict[str, Any]:
        return {"signal": self.signal.state(), "square": self.square.state(), "size": self.size.state()}

    def load(self, state: dict[str, Any]) -> None:
        self.signal.load(state["signal"])
        self.square.load(state["square"])
        self.size.load(state["size"])
