"""`TrainingArguments` with the settings of a zeroth-order step and defaults that suit it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

from transformers import TrainingArguments

from zoft.trainer.refused import check_training_settings
from zoft.trainer.settings import ZOSettings


@dataclass
class ZOConfig(TrainingArguments):
    """Arguments of `ZOTrainer`: all of `TrainingArguments`, plus the fields of `ZOSettings` under their own names.

    Defaults that differ from Transformers': a learning rate of zeroth-order size, a constant schedule, no gradient clipping
    (there is no gradient), and no automatic removal of columns, because an objective may need them.

    Raises:
        UsageError (a ValueError): a setting is out of range, or cannot be had without gradients (`fp16`, DeepSpeed, …).
    """

    learning_rate: float = field(default=1e-6, metadata={"help": "Zeroth-order steps need far smaller rates than AdamW."})
    lr_scheduler_type: str = field(default="constant", metadata={"help": "Any scheduler of Transformers."})
    max_grad_norm: float = field(default=0.0, metadata={"help": "There is no gradient to clip."})
    remove_unused_columns: bool | None = field(default=False, metadata={"help": "Objectives name their own columns."})

    zo_eps: float = field(default=ZOSettings.zo_eps, metadata={"help": "Radius of the perturbation, in weight units."})
    zo_distribution: Literal["rademacher", "gaussian"] = field(
        default=ZOSettings.zo_distribution, metadata={"help": "Law of the directions z."}
    )
    zo_directions: int = field(default=ZOSettings.zo_directions, metadata={"help": "Directions averaged per step (q)."})
    zo_seed: int | None = field(default=ZOSettings.zo_seed, metadata={"help": "Seed of the directions; default: seed."})
    perturbation: Literal["read_only", "in_place"] = field(
        default=ZOSettings.perturbation, metadata={"help": "Whether noise is ever written into the weights."}
    )
    weight_rounding: Literal["auto", "nearest", "stochastic", "residual8", "residual16"] = field(
        default=ZOSettings.weight_rounding, metadata={"help": "How 16-bit weights store an update."}
    )
    zo_backend: str = field(default=ZOSettings.zo_backend, metadata={"help": "Who computes the ops on weights."})
    zo_estimator: str = field(default=ZOSettings.zo_estimator, metadata={"help": "From losses to an estimate."})
    zo_rule: str = field(default=ZOSettings.zo_rule, metadata={"help": "What an estimate is spent on."})
    zo_momentum: float = field(default=ZOSettings.zo_momentum, metadata={"help": "Beta of momentum and adam."})
    zo_beta2: float = field(default=ZOSettings.zo_beta2, metadata={"help": "Beta of adam's second moment."})
    zo_momentum_window: int | None = field(
        default=ZOSettings.zo_momentum_window, metadata={"help": "Steps that momentum remembers; default: by beta."}
    )

    def __post_init__(self) -> None:
        check_training_settings(vars(self))
        self.zo_settings()
        super().__post_init__()

    def zo_settings(self) -> ZOSettings:
        """The zeroth-order part alone, checked."""
        return ZOSettings(**{f.name: getattr(self, f.name) for f in fields(ZOSettings)})
