"""Which z: counter-based directions, the same on every device, shard and kernel."""

from zoft.directions.address import Window, matrix_shape
from zoft.directions.blocks import Blocks
from zoft.directions.direction import LAWS, MAX_INDEX, Direction, DirectionSource, Distribution, Domain
from zoft.directions.draw import draw, draw_rows, for_window, rounding_bits, sees
from zoft.directions.form import Form, form_of
from zoft.directions.low_rank import LowRank, factors
from zoft.directions.mask import RandomMask, SmallWeights

__all__ = [
    "LAWS",
    "MAX_INDEX",
    "Blocks",
    "Direction",
    "DirectionSource",
    "Distribution",
    "Domain",
    "Form",
    "LowRank",
    "RandomMask",
    "SmallWeights",
    "Window",
    "draw",
    "draw_rows",
    "factors",
    "for_window",
    "form_of",
    "matrix_shape",
    "rounding_bits",
    "sees",
]
