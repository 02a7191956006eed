"""Which z: counter-based directions, the same on every device, shard and kernel."""

from zoft.directions.address import Window, matrix_shape
from zoft.directions.direction import MAX_INDEX, Direction, DirectionSource, Distribution, Domain
from zoft.directions.draw import draw, draw_rows, rounding_bits

__all__ = [
    "MAX_INDEX",
    "Direction",
    "DirectionSource",
    "Distribution",
    "Domain",
    "Window",
    "draw",
    "draw_rows",
    "matrix_shape",
    "rounding_bits",
]
