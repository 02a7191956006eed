"""The settings of a zeroth-order step. Imports neither torch nor Transformers, so that they are checked first."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from zoft.choices import ReadBy, check_read
from zoft.errors import UsageError
from zoft.limits import check_count, check_directions, check_panels, check_positive, check_seed, check_share
from zoft.schedule import Schedule
from zoft.stability.settings import StabilitySettings, check_moments

if TYPE_CHECKING:
    from zoft.directions import Blocks, Form

FACTORED, MASKED = ("low_rank", "subspace"), ("random_mask", "small_weights")

# Rules with a second moment for every weight -> the rule that they are along one direction of signs.
ALREADY = {"full_adam": "adam zo_momentum_buffer=full", "adamezo": "adam"}
TENSORS = ("full_adam", "adamezo")  # rules whose displacement is a tensor, which no mask of small weights reaches
MERGED = ("sgd", "momentum", "adam")  # rules whose updates can wait
READ_BY: ReadBy = {  # settings that only some rules or shapes read
    "zo_momentum": ("zo_rule", ("momentum", "adam", "full_adam", "adamezo", "muon")),
    "zo_beta2": ("zo_rule", ("adam", "full_adam", "adamezo")),
    "zo_momentum_window": ("zo_rule", ("momentum", "adam", "adamezo", "muon")),
    "zo_momentum_buffer": ("zo_rule", ("momentum", "adam")),
    "zo_hessian_smoothing": ("zo_rule", ("hizoo",)),
    "zo_rank": ("zo_shape", FACTORED),
    "zo_merge_every": ("zo_shape", FACTORED),
    "zo_refresh": ("zo_shape", (*FACTORED, "random_mask")),
    "zo_sparsity": ("zo_shape", MASKED),
}


@dataclass(frozen=True)
class ZOSettings(StabilitySettings):
    """How directions are drawn, losses compared and updates written, and what keeps the learning rate in bounds."""

    zo_eps: float = 2**-10  # length of the step to either side, in units of the weights
    zo_distribution: Literal["rademacher", "gaussian", "sphere"] = "rademacher"  # law of the directions z
    zo_directions: int = 1  # q: directions a step, averaged
    # q by step: constant, linear:Q@STEP or steps:Q@STEP,… from zo_directions on
    zo_directions_schedule: str = "constant"
    zo_direction_groups: int = 1  # groups of processes: each takes its share of the directions, on the same batch
    zo_check_every: int = 100  # steps between comparisons of all processes' weights; 0: never
    zo_seed: int | None = None  # of the directions; None: `seed`
    # read_only: copies of the weights are displaced; in_place: the weights themselves; auto: in place where that restores them
    perturbation: Literal["read_only", "in_place", "auto"] = "read_only"
    zo_panels: Literal["jit", "lockstep"] = "jit"  # read-only losses point by point, or of all points as one batch
    zo_row_budget: int | None = None  # of zo_panels=lockstep: the most rows at once; None: those of all points
    # how 16-bit weights store an update
    weight_rounding: Literal["auto", "nearest", "stochastic", "residual8", "residual16"] = "auto"
    zo_trajectory: bool = True  # keep the log of the run, trajectory.zoft
    zo_light_checkpoints: bool = False  # checkpoints without weights, which are made again from the base and the log
    zo_backend: str = "auto"  # who computes on the weights: auto, reference (plain torch), cpu or triton
    # from losses to an estimate of the slope; see `zoft methods`
    zo_estimator: Literal["two_point", "three_point", "one_sided", "conservative", "fzoo", "es_zscore", "es_rank"] = (
        "two_point"
    )
    # a matrix's direction: dense, of thin factors, or masked
    zo_shape: Literal["dense", "low_rank", "subspace", "random_mask", "small_weights"] = "dense"
    zo_rank: int = 2  # columns of the thin factors of low_rank and subspace
    zo_refresh: int = 1  # steps for which the right factor (of subspace both), or a random mask, stays
    # steps whose updates wait beside the matrices, of low_rank and subspace, and are merged at once
    zo_merge_every: int = 1
    zo_sparsity: float = 0.75  # of the masks: the share of each matrix that stands still
    zo_blocks: int = 1  # blocks of layers, of which each step moves one; 1: all layers in every step
    zo_block_order: Literal["cyclic", "random"] = "cyclic"  # of zo_blocks: in turn or at random
    # what an estimate is spent on; see `zoft methods`
    zo_rule: Literal["sgd", "momentum", "adam", "full_adam", "adamezo", "hizoo", "muon", "sign"] = "sgd"
    zo_momentum: float = 0.9  # beta of all rules but sgd and sign
    zo_beta2: float = 0.99  # beta of the second moment of adam, full_adam and adamezo
    zo_hessian_smoothing: float = 1e-6  # of hizoo: the share of its curvatures that a step replaces
    zo_momentum_window: int | None = None  # steps that momentum remembers; None: until 1 % of a gradient is left
    # momentum as a list of steps, or as large as the weights, 4 bytes for each
    zo_momentum_buffer: Literal["window", "full"] = "window"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("zo_eps", self.zo_eps)
        check_directions("zo_directions", self.zo_directions)
        counts = self.schedule.counts
        if self.zo_estimator == "fzoo" and min(counts) < 3:
            raise UsageError(
                f"zo_estimator=fzoo divides by the spread of the losses and needs zo_directions=3 or more (8 is usual), but "
                f"{min(counts)} was given"
            )
        self._check_shape()
        check_count("zo_rank", self.zo_rank)
        check_count("zo_refresh", self.zo_refresh)
        check_count("zo_direction_groups", self.zo_direction_groups)
        odd = next((count for count in counts if count % self.zo_direction_groups), None)
        if odd is not None:
            raise UsageError(
                f"zo_direction_groups must divide zo_directions={odd}, but {self.zo_direction_groups} was "
                "given; each group of processes takes the same number of directions"
            )
        if self.zo_direction_groups > 1 and self.perturbation == "in_place":
            raise UsageError(
                "perturbation=in_place leaves its rounding in the weights, and with zo_direction_groups every process would "
                "be left with another one; use perturbation=read_only"
            )
        check_panels(self.zo_panels, self.perturbation, self.zo_row_budget)
        if self.zo_light_checkpoints and not self.zo_trajectory:
            raise UsageError(
                "zo_light_checkpoints=true leaves the weights to the log, and zo_trajectory=false keeps none"
            )
        self._check_rule()
        check_read(self, READ_BY)
        self._check_merging()
        if self.zo_light_checkpoints and self.guard == "rewind":
            raise UsageError(
                "zo_light_checkpoints=true keeps no weights in a checkpoint, and guard=rewind would need those of the places "
                "that it goes back to; use guard=skip, or leave out zo_light_checkpoints"
            )
        check_count("zo_check_every", self.zo_check_every, least=0)
        if self.zo_seed is not None:
            check_seed("zo_seed", self.zo_seed)
        if self.weight_rounding.startswith("residual") and self.perturbation == "in_place":
            raise UsageError(
                f"perturbation=in_place cannot restore weights that carry residual bits (weight_rounding="
                f"{self.weight_rounding}); use perturbation=read_only or weight_rounding=stochastic"
            )

    def _check_merging(self) -> None:
        check_count("zo_merge_every", self.zo_merge_every)
        if self.zo_merge_every == 1:
            return
        if self.perturbation == "in_place":
            raise UsageError(
                "zo_merge_every lets updates wait beside the matrices, where read-only losses see them, and perturbation="
                "in_place writes all weights in every step: take perturbation=read_only, or leave out zo_merge_every"
            )
        if self.zo_rule not in MERGED or self.zo_momentum_buffer == "full":
            raise UsageError(
                f"zo_merge_every keeps updates as multiples of directions, and zo_rule={self.zo_rule} with "
                f"zo_momentum_buffer={self.zo_momentum_buffer} spends tensors: take {', '.join(MERGED)} with "
                "zo_momentum_buffer=window, or leave it out"
            )
        if self.guard == "rewind":
            raise UsageError(
                "guard=rewind looks at the weights after every step, so with it no update could wait: use guard=skip, or leave "
                "out zo_merge_every"
            )

    def _check_rule(self) -> None:
        check_share("zo_hessian_smoothing", self.zo_hessian_smoothing)
        if (self.zo_rule == "hizoo") != (self.zo_estimator == "three_point"):
            raise UsageError(
                "zo_estimator=three_point takes the loss at the weights for zo_rule=hizoo, which needs it: set both or "
                f"neither, not {self.zo_estimator} and {self.zo_rule}"
            )
        if self.zo_rule == "hizoo" and (self.zo_distribution, self.zo_shape) != ("gaussian", "dense"):
            raise UsageError(
                "zo_rule=hizoo tells weights apart by the squares of z's elements: it needs zo_distribution=gaussian and "
                f"zo_shape=dense, but {self.zo_distribution} and {self.zo_shape} were given"
            )
        if self.zo_rule in ("hizoo", "muon") and self.zo_blocks > 1:
            raise UsageError(
                f"zo_rule={self.zo_rule} spends tensors of every weight in every step, and zo_blocks={self.zo_blocks} shows it "
                "one block's: take zo_blocks=1, or another rule"
            )
        most = max(self.schedule.counts)
        name, one = self.zo_rule, (most, self.zo_distribution) == (1, "rademacher")
        check_share("zo_momentum", self.zo_momentum)
        check_share("zo_beta2", self.zo_beta2)
        if self.zo_momentum_window is not None:
            check_count("zo_momentum_window", self.zo_momentum_window)
        if self.zo_momentum_window is not None and self.zo_momentum_buffer == "full":
            raise UsageError(
                "zo_momentum_window is the length of a list, and zo_momentum_buffer=full keeps none; set one only"
            )
        if name == "sign" and not one:
            raise UsageError(
                "zo_rule=sign needs zo_directions=1 and zo_distribution=rademacher, where the sign of g is a direction "
                f"itself, but {most} and {self.zo_distribution} were given"
            )
        if name == "sign" and self.zo_shape in FACTORED:
            raise UsageError(
                f"zo_rule=sign needs dense directions of signs, whose sign is a direction itself, but zo_shape={self.zo_shape} "
                "was given, whose products are no signs; take zo_shape=dense, or another rule"
            )
        if name in ALREADY and one and self.zo_shape == "dense" and self.zo_blocks == 1:
            raise UsageError(
                f"zo_rule={name} keeps a second moment for every weight, and with zo_directions=1 and "
                f"zo_distribution=rademacher all of them are one number: take zo_rule={ALREADY[name]}, which is the same step, "
                "or more directions"
            )
        if self.stability != "off":
            check_moments(name, self.zo_blocks > 1, self.zo_shape)
        if name == "muon" and self.zo_shape == "dense":
            raise UsageError(
                "zo_rule=muon takes the orthogonal factor of a gradient through its thin factors, and dense directions have "
                "none; set zo_shape=low_rank or subspace (with zo_refresh, so that steps share a factor)"
            )

    def _check_shape(self) -> None:
        if not (isinstance(self.zo_sparsity, int | float) and 0.0 <= self.zo_sparsity < 1.0):
            raise UsageError(
                f"zo_sparsity is the share of a matrix that stands still and must lie in [0, 1), not {self.zo_sparsity!r}"
            )
        if self.zo_distribution == "sphere" and (self.zo_shape != "dense" or self.perturbation == "in_place"):
            raise UsageError(
                "zo_distribution=sphere scales dense directions to one length, which read-only losses can follow, but "
                f"zo_shape={self.zo_shape} and perturbation={self.perturbation} were given; take zo_distribution=gaussian"
            )
        check_count("zo_blocks", self.zo_blocks)
        if self.zo_blocks == 1 and self.zo_block_order != ZOSettings.zo_block_order:
            raise UsageError("zo_block_order is of several blocks; set zo_blocks=2 or more with it")
        if self.zo_shape == "small_weights" and (
            self.perturbation == "in_place" or self.zo_momentum_buffer == "full" or self.zo_rule in TENSORS
        ):
            raise UsageError(
                "zo_shape=small_weights reads off the weights which of them move, so noise must not be in them, and "
                "what a rule makes or keeps as a tensor is none; take perturbation=read_only and zo_momentum_buffer=window, or "
                "another rule"
            )

    @property
    def form(self) -> "Form | None":
        """The thin factors, or the mask, of directions; None: dense."""
        from zoft.directions import LowRank, RandomMask, SmallWeights

        if self.zo_shape in FACTORED:
            return LowRank(self.zo_shape, self.zo_rank, self.zo_refresh)
        if self.zo_shape == "random_mask":
            return RandomMask(self.zo_sparsity, self.zo_refresh)
        return SmallWeights(self.zo_sparsity) if self.zo_shape == "small_weights" else None

    @property
    def schedule(self) -> Schedule:
        """q by step."""
        return Schedule.parse(self.zo_directions_schedule, self.zo_directions)

    @property
    def blocks(self) -> "Blocks | None":
        """The blocks of layers that steps move; None: all layers in every step."""
        from zoft.directions import Blocks

        return None if self.zo_blocks == 1 else Blocks(self.zo_blocks, self.zo_block_order)

    @property
    def optimizer_settings(self) -> dict[str, Any]:
        """Arguments of `zoft.ZOOptimizer`: all but learning rate, weight decay and seed, which Trainer's settings hold."""
        return {
            "eps": self.zo_eps, "directions": self.schedule, "distribution": self.zo_distribution,
            "perturbation": self.perturbation, "weight_rounding": self.weight_rounding, "estimator": self.zo_estimator,
            "rule": self.zo_rule, "rule_settings": self.rule_settings, "form": self.form, "blocks": self.blocks,
            "backend": self.zo_backend, "direction_groups": self.zo_direction_groups, "panels": self.zo_panels,
            "row_budget": self.zo_row_budget, "merge_every": self.zo_merge_every,
        }  # fmt: skip

    @property
    def rule_settings(self) -> dict[str, float | int | str | None]:
        """What `zoft.rules.rule(zo_rule, ...)` takes.

        >>> ZOSettings(zo_rule="momentum").rule_settings
        {'beta': 0.9, 'window': None, 'buffer': 'window'}
        """
        own = {"beta": self.zo_momentum, "window": self.zo_momentum_window, "buffer": self.zo_momentum_buffer}
        moments = {"beta": self.zo_momentum, "beta2": self.zo_beta2}
        rules = {
            "momentum": own,
            "adam": {**own, **moments},
            "full_adam": moments,
            "adamezo": {**moments, "window": self.zo_momentum_window},
            "muon": {"beta": self.zo_momentum, "window": self.zo_momentum_window},
            "hizoo": {"smoothing": self.zo_hessian_smoothing},
        }
        return rules.get(self.zo_rule, {})
