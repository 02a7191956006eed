"""The settings of the stability monitor and of the guard. Imports no torch: they are checked before it is loaded."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from zoft.choices import ReadBy, check_choices, check_read
from zoft.errors import UsageError
from zoft.limits import check_count, check_not_negative, check_positive, check_share

MOST_PROBES = 2047  # two points each; their numbers have the room of directions


@dataclass(frozen=True)
class StabilitySettings:
    """What is measured, what bounds the learning rate, and when a step is refused. See `zoft.stability.monitor`."""

    # the monitor: measures curvature (report), and bounds the learning rate by it (cap)
    stability: Literal["off", "report", "cap"] = "cap"
    stability_every: int | None = None  # steps between curvature readings; None: as often as 5 % of the forwards allow
    stability_probes: int = 0  # directions per reading, two forwards each; 0: the training step's own losses, for free
    # length of the probes; None: zo_eps, or more where rounding noise asks for it
    stability_radius: float | None = None
    stability_loss_noise: float | None = None  # rounding noise of one loss (standard deviation); None: measured
    stability_ema: float = 0.9  # share of the averaged trace that a new reading leaves
    # allowed share of 2 q (1 - beta) / Tr, the edge of stability; None: it does not bound
    stability_margin: float | None = 0.5
    # allowed share of 2 q sf / Tr, the mini-batch descent edge; None: it does not bound
    stability_descent_margin: float | None = 0.1
    stability_drift: float | None = 0.02  # most that noise may move the weights in one step, x ||w_0||; None: any
    stability_lambda_max: float | None = None  # top eigenvalue of the Hessian, where it is known; None: it is not
    stability_noise: float | None = None  # most that one step's noise may cost, in units of the loss; None: no bound
    stability_auto: bool = False  # choose the learning rate, times the schedule; set by learning_rate=auto
    # share taken of q sf / Tr, the best single step; at most 2 x stability_descent_margin counts
    stability_auto_margin: float = 0.1
    stability_auto_steps: int = 20  # measuring steps before the first one that moves
    guard: Literal["off", "skip", "rewind"] = "skip"  # what happens to steps whose losses jump
    guard_threshold: float = 10.0  # how far a loss may jump, in spreads of its recent history
    guard_patience: int = 5  # refused steps in a row before the guard gives up waiting
    # guard=rewind goes back at so many times the lowest average loss; None: only for jumps
    guard_rise: float | None = 3.0

    def __post_init__(self) -> None:
        check_choices(self)
        positive = ("stability_radius", "stability_margin", "stability_descent_margin", "stability_drift",
                    "stability_lambda_max", "stability_noise", "stability_auto_margin", "guard_threshold")  # fmt: skip
        for name in positive:
            value = getattr(self, name)
            if value is not None:
                check_positive(name, value)
        if self.stability_loss_noise is not None:
            check_not_negative("stability_loss_noise", self.stability_loss_noise)
        check_share("stability_ema", self.stability_ema)
        check_count("stability_probes", self.stability_probes, least=0)
        if self.stability_probes > MOST_PROBES:
            raise UsageError(f"stability_probes must be at most {MOST_PROBES}, but {self.stability_probes} was given")
        if self.guard_rise is not None:
            check_positive("guard_rise", self.guard_rise)
            if self.guard_rise <= 1.25:
                raise UsageError(f"guard_rise must be a number above 1.25, but {self.guard_rise!r} was given")
        for name, least in (("stability_every", 1), ("stability_auto_steps", 4), ("guard_patience", 1)):
            value = getattr(self, name)
            if value is not None:
                check_count(name, value, least)
        if self.stability_auto and self.stability != "cap":
            raise UsageError(
                f"learning_rate=auto is chosen by the stability monitor, which stability={self.stability} keeps from "
                "acting; leave stability at cap, or give a learning rate"
            )
        check_read(self, READ_BY)


def check_moments(rule: str, blocks: bool, shape: str) -> None:
    """
    Args:
        rule: zo_rule.
        blocks: whether each step moves one of several blocks of layers.
        shape: zo_shape.

    Raises:
        UsageError: nobody knows how far a weight moves: it divides by a second moment of its own, which, where it moves in
            some steps only, lies far below the mean over steps that a monitor sees.
    """
    seldom = "zo_blocks" if blocks else "zo_shape=random_mask" if shape == "random_mask" else None
    if rule in ("full_adam", "adamezo") and seldom is not None:
        raise UsageError(
            f"with {seldom} a weight moves in some steps only, and how far zo_rule={rule} then moves it (by its own second "
            "moment) is not known in closed form, so no bound can be: take zo_rule=adam, or set stability=off"
        )


READ_BY: ReadBy = {  # settings that nothing would read where the monitor or the guard is off
    **{
        name: ("stability", ("cap", "report"))
        for f in fields(StabilitySettings)
        if (name := f.name).startswith("stability_")
    },
    "guard_threshold": ("guard", ("skip", "rewind")),
    "guard_patience": ("guard", ("skip", "rewind")),
    "guard_rise": ("guard", ("rewind",)),
}
