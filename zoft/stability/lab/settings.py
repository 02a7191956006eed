"""What the laboratory adds to the settings of a run. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from zoft.errors import UsageError


@dataclass(frozen=True)
class LabSettings:
    """Settings of `task: eos`; everything else (learning_rate, zo_rule, zo_eps, …) keeps its meaning."""

    eos_loss: Literal["squared", "cross_entropy"] = "squared"  # that a network is trained by
    eos_first_order: bool = False  # gradient descent with exact gradients beside it, against 2 / lambda_max
    eos_raise_at: int | None = None  # step at which the learning rate is multiplied
    eos_raise_by: float = 2.0  # by which it is multiplied
    eos_images: int = 500  # of scikit-learn's digits, the first ones
    eos_measure_every: int | None = None  # steps; None: 60 times in a run
    eos_trace_probes: int = 60  # Rademacher directions of each Hutchinson estimate

    def __post_init__(self) -> None:
        for name, least in (("eos_images", 2), ("eos_trace_probes", 2), ("eos_measure_every", 1), ("eos_raise_at", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"{name} must be at least {least}, but {value} was given")
        if not self.eos_raise_by > 0.0:
            raise UsageError(f"eos_raise_by must be positive, but {self.eos_raise_by!r} was given")
