"""The ops that touch weights: one contract, several implementations, the same bits."""

from zoft.backends.base import PANEL_BYTES, Backend, BufferedMove, Move, Point, Rounding, Target, Term
from zoft.backends.table import available, backend

__all__ = [
    "PANEL_BYTES",
    "Backend",
    "BufferedMove",
    "Move",
    "Point",
    "Rounding",
    "Target",
    "Term",
    "available",
    "backend",
]
