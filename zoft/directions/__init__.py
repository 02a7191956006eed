"""Which z: counter-based directions, the same on every device, shard and kernel."""

from zoft.directions.address import Window, matrix_shape
from zoft.directions.direction import MAX_INDEX, Direction, DirectionSource, Distribution, Domain
from zoft.directions.draw import draw, draw_rows, for_window, rounding_bits
from zoft.directions.low_rank import LowRank, factors

__all__ = [
    "MAX_INDEX",
    "Direction",
    "DirectionSource",
    "Distribution",
    "Domain",
    "LowRank",
    "Window",
    "draw",
    "draw_rows",
    "factors",
    "for_window",
    "matrix_shape",
    "rounding_bits",
]
