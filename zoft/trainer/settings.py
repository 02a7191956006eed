"""The settings of a zeroth-order step. Imports neither torch nor Transformers, so that they are checked first."""

import math
from dataclasses import dataclass
from typing import Literal

from zoft.errors import UsageError
from zoft.stability.settings import StabilitySettings


@dataclass(frozen=True)
class ZOSettings(StabilitySettings):
    """How directions are drawn, losses compared and updates written, and what keeps the learning rate in bounds."""

    zo_eps: float = 2**-10  # length of the step to either side, in units of the weights
    zo_distribution: Literal["rademacher", "gaussian"] = "rademacher"
    zo_directions: int = 1  # q, averaged
    zo_direction_groups: int = 1  # of processes: each takes its share of the directions, on the same batch
    zo_check_every: int = 100  # steps between comparisons of all processes' weights; 0: never
    zo_seed: int | None = None  # None: `seed`
    perturbation: Literal["read_only", "in_place"] = "read_only"
    weight_rounding: Literal["auto", "nearest", "stochastic", "residual8", "residual16"] = "auto"  # of 16-bit weights
    zo_trajectory: bool = True  # keep the log of the run, trajectory.zoft
    zo_backend: str = "auto"
    zo_estimator: Literal["two_point", "one_sided", "fzoo", "es_zscore", "es_rank"] = "two_point"  # `zoft methods`
    zo_rule: Literal["sgd", "momentum", "adam", "sign"] = "sgd"
    zo_momentum: float = 0.9  # beta of momentum and adam; sgd has none
    zo_beta2: float = 0.99  # of adam's second moment
    zo_momentum_window: int | None = None  # remembered steps; None: until 1 % of a gradient is left
    zo_momentum_buffer: Literal["window", "full"] = "window"  # full: as large as the weights, 4 bytes for each

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.zo_eps) and self.zo_eps > 0):
            raise UsageError(f"zo_eps must be a positive number, but {self.zo_eps} was given; 2^-10 is the default")
        if not 1 <= self.zo_directions < 4096:
            raise UsageError(f"zo_directions must be between 1 and 4095, but {self.zo_directions} was given")
        if self.zo_estimator == "fzoo" and self.zo_directions < 3:
            raise UsageError(
                f"zo_estimator=fzoo divides by the spread of the losses and needs zo_directions=3 or more (8 is usual), but "
                f"{self.zo_directions} was given"
            )
        if self.zo_rule == "sign" and (self.zo_directions, self.zo_distribution) != (1, "rademacher"):
            raise UsageError(
                "zo_rule=sign needs zo_directions=1 and zo_distribution=rademacher, where the sign of g is a direction "
                f"itself, but {self.zo_directions} and {self.zo_distribution} were given"
            )
        if self.zo_direction_groups < 1 or self.zo_directions % self.zo_direction_groups:
            raise UsageError(
                f"zo_direction_groups must divide zo_directions={self.zo_directions}, but {self.zo_direction_groups} was "
                "given; each group of processes takes the same number of directions"
            )
        if self.zo_direction_groups > 1 and self.perturbation == "in_place":
            raise UsageError(
                "perturbation=in_place leaves its rounding in the weights, and with zo_direction_groups every process would "
                "be left with another one; use perturbation=read_only"
            )
        if self.zo_check_every < 0:
            raise UsageError(f"zo_check_every is a number of steps, 0 for never, but {self.zo_check_every} was given")
        if self.zo_seed is not None and not 0 <= self.zo_seed < 2**32:
            raise UsageError(f"zo_seed must be between 0 and 2^32 - 1, but {self.zo_seed} was given")
        for name, value in (("zo_momentum", self.zo_momentum), ("zo_beta2", self.zo_beta2)):
            if not 0.0 <= value < 1.0:
                raise UsageError(f"{name} is the share of the past that is kept and must lie in [0, 1), not {value!r}")
        if self.zo_momentum_window is not None and self.zo_momentum_window < 1:
            raise UsageError(f"zo_momentum_window must be at least 1 step, but {self.zo_momentum_window} was given")
        if self.zo_momentum_window is not None and self.zo_momentum_buffer == "full":
            raise UsageError(
                "zo_momentum_window is the length of a list, and zo_momentum_buffer=full keeps none; set one only"
            )
        if self.weight_rounding.startswith("residual") and self.perturbation == "in_place":
            raise UsageError(
                f"perturbation=in_place cannot restore weights that carry residual bits (weight_rounding="
                f"{self.weight_rounding}); use perturbation=read_only or weight_rounding=stochastic"
            )

    @property
    def rule_settings(self) -> dict[str, float | int | str | None]:
        """What `zoft.rules.rule(zo_rule, ...)` takes.

        >>> ZOSettings(zo_rule="momentum").rule_settings
        {'beta': 0.9, 'window': None, 'buffer': 'window'}
        """
        own = {"beta": self.zo_momentum, "window": self.zo_momentum_window, "buffer": self.zo_momentum_buffer}
        return {"momentum": own, "adam": {**own, "beta2": self.zo_beta2}}.get(self.zo_rule, {})
