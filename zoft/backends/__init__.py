"""The ops that touch weights: one contract, several implementations, the same bits."""

from zoft.backends.base import PANEL_BYTES, Backend, Move, Point, Rounding, Target, Term
from zoft.backends.polar import PolarMove
from zoft.backends.scaled import CurvedMove
from zoft.backends.table import available, backend
from zoft.backends.tensor_moves import AdaptiveMove, BufferedMove, TensorMove, WindowedMove

__all__ = [
    "PANEL_BYTES",
    "AdaptiveMove",
    "Backend",
    "BufferedMove",
    "CurvedMove",
    "Move",
    "Point",
    "PolarMove",
    "Rounding",
    "Target",
    "TensorMove",
    "Term",
    "WindowedMove",
    "available",
    "backend",
]
