"""The settings of a zeroth-order step. Imports neither torch nor Transformers, so that they are checked first."""

import math
from dataclasses import dataclass
from typing import Literal

from zoft.errors import UsageError


@dataclass(frozen=True)
class ZOSettings:
    """How directions are drawn, losses compared and updates written."""

    zo_eps: float = 2**-10  # length of the step to either side, in units of the weights
    zo_distribution: Literal["rademacher", "gaussian"] = "rademacher"
    zo_directions: int = 1  # q, averaged
    zo_seed: int | None = None  # None: `seed`
    perturbation: Literal["read_only", "in_place"] = "read_only"
    weight_rounding: Literal["nearest"] = "nearest"
    zo_backend: str = "auto"
    zo_estimator: str = "two_point"
    zo_rule: str = "sgd"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.zo_eps) and self.zo_eps > 0):
            raise UsageError(f"zo_eps must be a positive number, but {self.zo_eps} was given; 2^-10 is the default")
        if not 1 <= self.zo_directions < 4096:
            raise UsageError(f"zo_directions must be between 1 and 4095, but {self.zo_directions} was given")
        if self.zo_seed is not None and not 0 <= self.zo_seed < 2**32:
            raise UsageError(f"zo_seed must be between 0 and 2^32 - 1, but {self.zo_seed} was given")
