"""The governor of a run: the guard first, then the monitor. And how it is put on an optimizer."""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import replace
from typing import Any, Protocol

from zoft.errors import UsageError
from zoft.governor import Decision, Evidence, Request
from zoft.stability.guard import Guard
from zoft.stability.monitor import StabilityMonitor, Surroundings
from zoft.stability.settings import StabilitySettings, check_moments

KEPT = 8  # places to come back to
RECENT = 64  # steps before which the state is kept, and a guard's patience more

logger = logging.getLogger(__name__)


class Places(Protocol):
    """Whoever keeps the weights of places to come back to."""

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        ...


class Steering:
    """What the optimizer asks: guard and monitor, either of which may be absent."""

    def __init__(self, monitor: StabilityMonitor | None, guard: Guard | None) -> None:
        self.monitor, self.guard = monitor, guard
        self.scale = 1.0  # of the learning rate asked for; halved by every rewind
        self.rewind_wanted = False  # the guard lost patience: whoever can rewind should, and then call `rewound`
        self.places: Places | None = None  # whoever can rewind; saved and loaded with the rest
        self._recent: OrderedDict[int, dict[str, Any]] = OrderedDict()  # step -> the monitor's state before it
        self._kept: OrderedDict[int, dict[str, Any]] = OrderedDict()  # the same, at the last places to come back to

    def request(self, step: int) -> Request:
        return self.monitor.request(step) if self.monitor is not None else Request()

    def decide(self, evidence: Evidence) -> Decision:
        asked = evidence.lr
        if self.monitor is not None and self.guard is not None and self.guard.may_rewind:
            _add(self._recent, evidence.step, self.monitor.state_dict(), RECENT + self.guard.patience)
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

    def keep(self, step: int) -> None:
        """A place to come back to, after `step` steps: the monitor's state is kept with the copy of the weights."""
        if self.monitor is not None:
            _add(self._kept, step, self.monitor.state_dict(), KEPT)

    def rewound(self, step: int, shrink: float = 0.5) -> None:
        """The weights are back where they were after `step` steps, and steps are `shrink` times as long from now on.

        The monitor goes back too, to that step or to the last one kept before it: undone steps paid no noise and walked
        nowhere, and what was measured in them is not true here.
        """
        self.rewind_wanted = False
        self.scale *= shrink
        for states in (self._recent, self._kept):
            for later in [known for known in states if known > step]:
                del states[later]
        known = {**self._kept, **self._recent}
        if self.monitor is not None and known:
            self.monitor.rewound(known[max(known)])
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
            "recent": list(self._recent.items()),
            "kept": list(self._kept.items()),
            "places": self.places.state_dict() if self.places is not None else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scale = state["scale"]
        if self.monitor is not None and state["monitor"] is not None:
            self.monitor.load_state_dict(state["monitor"])
        if self.guard is not None and state["guard"] is not None:
            self.guard.load(state["guard"])
        self._recent, self._kept = OrderedDict(state["recent"]), OrderedDict(state["kept"])
        if self.places is not None and state["places"] is not None:
            self.places.load_state_dict(state["places"])


def govern(
    optimizer: Any, settings: StabilitySettings, *, batch_fraction: float = 0.0, may_rewind: bool = False
) -> Steering | None:
    """Put a monitor and a guard on `optimizer`, as `settings` say; None where both are off.

    Args:
        optimizer: a `ZOOptimizer` before its first step; its weights now are w_0.
        settings: a `ZOSettings` is one.
        batch_fraction: examples in a whole batch / examples in the training set; 0 where that is not known.
        may_rewind: is there somebody who rewinds when `rewind_wanted` says so?

    Raises:
        UsageError: stability_auto with a learning rate of 0; a rule of which nobody knows how far its steps go.
    """
    if settings.stability_auto and not optimizer.defaults["lr"] > 0.0:
        raise UsageError(
            "with stability_auto the schedule says by how much the chosen learning rate is multiplied, relative to "
            f"learning_rate, which must be positive and is {optimizer.defaults['lr']!r}; learning_rate=auto sets both"
        )
    monitor = None
    if settings.stability != "off":
        from zoft.stability.reference import reference_norm  # imports torch, which settings must not

        blocks, form = optimizer.source.blocks, optimizer.source.form
        check_moments(optimizer.rule.settings()["name"], blocks is not None, form.shape if form else "dense")
        around = Surroundings(
            rule=optimizer.rule.settings(),
            directions=optimizer.directions,
            eps=optimizer.estimator.eps,
            elements=optimizer.space.elements,
            weights_norm=reference_norm(optimizer.model, optimizer.space),
            base_lr=float(optimizer.defaults["lr"]),
            rule_state=lambda: optimizer.rule_state,
            batch_fraction=min(max(batch_fraction, 0.0), 1.0),
            forwards=len(optimizer.estimator.population(optimizer.source.at(0, optimizer.directions))),
            lean=optimizer.estimator.lean,
            stretch=lambda: optimizer.space.momenta.stretch,
            block=optimizer.source.block,
            sizes=tuple(
                optimizer.space.elements_of(block, form.density if form else 1.0)
                for block in range(blocks.count if blocks else 1)
            ),
            tail=form.tail(optimizer.space.matrices) if form is not None else None,
        )
        monitor = StabilityMonitor(settings, around)
    guard = None
    if settings.guard != "off":
        rewinding = may_rewind and settings.guard == "rewind"
        guard = Guard(settings.guard_threshold, settings.guard_patience, rewinding, settings.guard_rise)
    optimizer.governor = Steering(monitor, guard) if monitor is not None or guard is not None else None
    return optimizer.governor


def _add(states: OrderedDict[int, dict[str, Any]], step: int, state: dict[str, Any], most: int) -> None:
    states[step] = state
    while len(states) > most:
        states.popitem(last=False)
