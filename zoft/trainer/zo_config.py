"""`TrainingArguments` with the settings of a zeroth-order step and defaults that suit it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from typing import Literal

from transformers import TrainingArguments

from zoft.trainer.refused import check_launch, check_measuring, check_training_settings, check_waiting
from zoft.trainer.settings import ZOSettings


@dataclass
class ZOConfig(TrainingArguments):
    """Arguments of `ZOTrainer`: all of `TrainingArguments`, plus the fields of `ZOSettings` under their own names.

    Defaults that differ from Transformers': a learning rate of zeroth-order size (1e-6), a constant schedule, no gradient
    clipping (there is no gradient), and with an objective no automatic removal of columns, because it may need them.

    Raises:
        UsageError (a ValueError): a setting is out of range, or cannot be had without gradients (`fp16`, DeepSpeed, …).
    """

    learning_rate: float | Literal["auto"] = field(  # type: ignore[assignment]
        default=1e-6, metadata={"help": "Far smaller than for AdamW; auto: chosen by the stability monitor."}
    )
    lr_scheduler_type: str = field(default="constant", metadata={"help": "Any scheduler of Transformers."})
    max_grad_norm: float = field(default=0.0, metadata={"help": "There is no gradient to clip."})
    remove_unused_columns: bool | None = field(
        default=None,
        metadata={"help": "Default: true without an objective, which may need columns that no model takes."},
    )

    zo_eps: float = field(default=ZOSettings.zo_eps, metadata={"help": "Radius of the perturbation, in weight units."})
    zo_distribution: Literal["rademacher", "gaussian", "sphere"] = field(
        default=ZOSettings.zo_distribution, metadata={"help": "Law of the directions z."}
    )
    zo_directions: int = field(default=ZOSettings.zo_directions, metadata={"help": "Directions averaged per step (q)."})
    zo_directions_schedule: str = field(
        default=ZOSettings.zo_directions_schedule,
        metadata={"help": "q by step: constant, linear:Q@STEP, steps:Q@STEP,…"},
    )
    zo_direction_groups: int = field(
        default=ZOSettings.zo_direction_groups, metadata={"help": "Groups of processes that share out the directions."}
    )
    zo_check_every: int = field(
        default=ZOSettings.zo_check_every, metadata={"help": "Steps between comparisons of the processes' weights."}
    )
    zo_seed: int | None = field(default=ZOSettings.zo_seed, metadata={"help": "Seed of the directions; default: seed."})
    perturbation: Literal["read_only", "in_place", "auto"] = field(
        default=ZOSettings.perturbation,
        metadata={"help": "Is noise written into the weights: read_only, in_place, or auto."},
    )
    zo_panels: Literal["jit", "lockstep"] = field(
        default=ZOSettings.zo_panels,
        metadata={"help": "Read-only losses point by point, or of all points as one batch."},
    )
    zo_row_budget: int | None = field(
        default=ZOSettings.zo_row_budget,
        metadata={"help": "Most rows at once in lockstep; default: those of all points."},
    )
    weight_rounding: Literal["auto", "nearest", "stochastic", "residual8", "residual16"] = field(
        default=ZOSettings.weight_rounding, metadata={"help": "How 16-bit weights store an update."}
    )
    zo_trajectory: bool = field(
        default=ZOSettings.zo_trajectory, metadata={"help": "Keep the log of the run, <output_dir>/trajectory.zoft."}
    )
    zo_light_checkpoints: bool = field(
        default=ZOSettings.zo_light_checkpoints,
        metadata={"help": "Checkpoints without weights, which are made again from the base and the log."},
    )
    zo_backend: str = field(default=ZOSettings.zo_backend, metadata={"help": "Who computes the ops on weights."})
    zo_estimator: Literal["two_point", "three_point", "one_sided", "conservative", "fzoo", "es_zscore", "es_rank"] = (
        field(default=ZOSettings.zo_estimator, metadata={"help": "From losses to an estimate; see zoft methods."})
    )
    zo_shape: Literal["dense", "low_rank", "subspace", "random_mask", "small_weights"] = field(
        default=ZOSettings.zo_shape, metadata={"help": "A matrix's direction: dense, of thin factors, or masked."}
    )
    zo_rank: int = field(default=ZOSettings.zo_rank, metadata={"help": "Columns of the thin factors."})
    zo_refresh: int = field(default=ZOSettings.zo_refresh, metadata={"help": "Steps for which factors or a mask stay."})
    zo_merge_every: int = field(
        default=ZOSettings.zo_merge_every, metadata={"help": "Steps after which thin updates are merged into matrices."}
    )
    zo_sparsity: float = field(
        default=ZOSettings.zo_sparsity, metadata={"help": "Share of each matrix that a mask lets stand still."}
    )
    zo_blocks: int = field(
        default=ZOSettings.zo_blocks, metadata={"help": "Blocks of layers, of which a step moves one; 1: all."}
    )
    zo_block_order: Literal["cyclic", "random"] = field(
        default=ZOSettings.zo_block_order, metadata={"help": "Blocks in turn, or at random."}
    )
    zo_rule: Literal["sgd", "momentum", "adam", "full_adam", "adamezo", "hizoo", "muon", "sign"] = field(
        default=ZOSettings.zo_rule, metadata={"help": "What an estimate is spent on; see zoft methods."}
    )
    zo_momentum: float = field(
        default=ZOSettings.zo_momentum, metadata={"help": "Beta of momentum, in rules that have it."}
    )
    zo_beta2: float = field(
        default=ZOSettings.zo_beta2, metadata={"help": "Beta of the second moment of adam and full_adam."}
    )
    zo_hessian_smoothing: float = field(
        default=ZOSettings.zo_hessian_smoothing, metadata={"help": "Share of hizoo's curvatures that a step replaces."}
    )
    zo_momentum_window: int | None = field(
        default=ZOSettings.zo_momentum_window, metadata={"help": "Steps that momentum remembers; default: by beta."}
    )
    zo_momentum_buffer: Literal["window", "full"] = field(
        default=ZOSettings.zo_momentum_buffer,
        metadata={"help": "Momentum as a list of steps, or as large as the weights."},
    )

    stability: Literal["off", "report", "cap"] = field(
        default=ZOSettings.stability, metadata={"help": "Whether curvature is measured, and bounds the learning rate."}
    )
    stability_every: int | None = field(
        default=ZOSettings.stability_every, metadata={"help": "Steps between readings; default: 5 % of the forwards."}
    )
    stability_probes: int = field(
        default=ZOSettings.stability_probes, metadata={"help": "Directions per reading; 0: the training step's own."}
    )
    stability_radius: float | None = field(
        default=ZOSettings.stability_radius, metadata={"help": "Radius of the probes; default: by rounding noise."}
    )
    stability_loss_noise: float | None = field(
        default=ZOSettings.stability_loss_noise, metadata={"help": "Rounding noise of a loss; default: measured."}
    )
    stability_ema: float = field(default=ZOSettings.stability_ema, metadata={"help": "Decay of the averaged trace."})
    stability_margin: float | None = field(
        default=ZOSettings.stability_margin, metadata={"help": "Share of the edge of stability that is allowed."}
    )
    stability_descent_margin: float | None = field(
        default=ZOSettings.stability_descent_margin, metadata={"help": "Share of the mini-batch descent edge allowed."}
    )
    stability_drift: float | None = field(
        default=ZOSettings.stability_drift, metadata={"help": "Relative distance that noise may walk in a step."}
    )
    stability_lambda_max: float | None = field(
        default=ZOSettings.stability_lambda_max, metadata={"help": "Top eigenvalue of the Hessian, where it is known."}
    )
    stability_noise: float | None = field(
        default=ZOSettings.stability_noise, metadata={"help": "Loss that one step's noise may cost; default: any."}
    )
    stability_auto: bool = field(
        default=ZOSettings.stability_auto, metadata={"help": "Set by learning_rate=auto: the monitor chooses."}
    )
    stability_auto_margin: float = field(
        default=ZOSettings.stability_auto_margin, metadata={"help": "Share of the best single step that is taken."}
    )
    stability_auto_steps: int = field(
        default=ZOSettings.stability_auto_steps, metadata={"help": "Measuring steps before the first that moves."}
    )
    guard: Literal["off", "skip", "rewind"] = field(
        default=ZOSettings.guard, metadata={"help": "What happens to steps whose losses jump."}
    )
    guard_threshold: float = field(
        default=ZOSettings.guard_threshold, metadata={"help": "How far outside its history a loss is refused."}
    )
    guard_patience: int = field(
        default=ZOSettings.guard_patience, metadata={"help": "Refused steps in a row before giving up waiting."}
    )
    guard_rise: float | None = field(
        default=ZOSettings.guard_rise, metadata={"help": "Climb of the average loss that guard=rewind goes back for."}
    )

    def __post_init__(self) -> None:
        if self.learning_rate == "auto":  # the scheduler's factor times what the monitor chooses
            self.learning_rate, self.stability_auto = 1.0, True
        check_training_settings(vars(self))
        check_waiting(self.zo_merge_every, vars(self))
        check_launch(os.environ)
        check_measuring(self.zo_settings(), vars(self))
        super().__post_init__()

    def zo_settings(self) -> ZOSettings:
        """The zeroth-order part alone, checked."""
        return ZOSettings(**{f.name: getattr(self, f.name) for f in fields(ZOSettings)})
