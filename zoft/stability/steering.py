"""The governor of a run: the guard first, then the monitor. And how it is put on an optimizer."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from zoft.governor import Decision, Evidence, Request
from zoft.stability.guard import Guard
from zoft.stability.monitor import StabilityMonitor, Surroundings
from zoft.stability.settings import StabilitySettings

logger = logging.getLogger(__name__)


class Steering:
    """What the optimizer asks: guard and monitor, either of which may be absent."""

    def __init__(self, monitor: StabilityMonitor | None, guard: Guard | None) -> None:
        self.monitor, self.guard = monitor, guard
        self.scale = 1.0  # of the learning rate asked for; halved by every rewind
        self.rewind_wanted = False  # the guard lost patience: whoever can rewind should, and then call `rewound`

    def request(self, step: int) -> Request:
        return self.monitor.request(step) if self.monitor is not None else Request()

    def decide(self, evidence: Evidence) -> Decision:
        asked = evidence.lr
        if self.guard is not None:
            verdict = self.guard.judge(evidence)
            if verdict != "pass":
                self.rewind_wanted = verdict == "rewind"
                logger.warning(
                    "step %d is refused: loss %.4g, slopes %s", evidence.step, evidence.loss, evidence.slopes[:3]
                )
                return Decision(evidence.lr, refused=True)
        if self.scale != 1.0:
            evidence = replace(evidence, lr=asked * self.scale)
        decision = self.monitor.decide(evidence) if self.monitor is not None else Decision(evidence.lr)
        return replace(decision, capped=True) if decision.lr < asked and self.scale != 1.0 else decision

    def rewound(self, shrink: float = 0.5) -> None:
        """The weights are back at an earlier step, and steps are `shrink` times as long from now on."""
        self.rewind_wanted = False
        self.scale *= shrink
        if self.guard is not None:
            self.guard.rewound()

    def metrics(self) -> dict[str, float]:
        """For the log."""
        found = self.monitor.metrics() if self.monitor is not None else {}
        return found if self.guard is None else {**found, "stability/guarded": float(self.guard.refused)}

    def state_dict(self) -> dict[str, Any]:
        return {
            "monitor": self.monitor.state_dict() if self.monitor is not None else None,
            "guard": self.guard.state() if self.guard is not None else None,
            "scale": self.scale,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scale = state["scale"]
        if self.monitor is not None and state["monitor"] is not None:
            self.monitor.load_state_dict(state["monitor"])
        if self.guard is not None and state["guard"] is not None:
            self.guard.load(state["guard"])


def govern(
    optimizer: Any, settings: StabilitySettings, *, batch_fraction: float = 0.0, may_rewind: bool = False
) -> Steering | None:
    """Put a monitor and a guard on `optimizer`, as `settings` say; None where both are off.

    Args:
        optimizer: a `ZOOptimizer` before its first step; its weights now are w_0.
        settings: a `ZOSettings` is one.
        batch_fraction: examples in a whole batch / examples in the training set; 0 where that is not known.
        may_rewind: is there somebody who rewinds when `rewind_wanted` says so?
    """
    monitor = None
    if settings.stability != "off":
        around = Surroundings(
            rule=optimizer.rule.settings(),
            directions=optimizer.directions,
            eps=getattr(optimizer.estimator, "eps", 2.0**-10),
            elements=optimizer.space.elements,
            weights_norm=optimizer.space.norm(),
            batch_fraction=min(max(batch_fraction, 0.0), 1.0),
        )
        monitor = StabilityMonitor(settings, around)
    guard = None
    if settings.guard != "off":
        rewinding = may_rewind and settings.guard == "rewind"
        guard = Guard(settings.guard_threshold, settings.guard_patience, rewinding, settings.guard_rise)
    optimizer.governor = Steering(monitor, guard) if monitor is not None or guard is not None else None
    return optimizer.governor
