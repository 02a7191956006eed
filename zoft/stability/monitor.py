"""The stability monitor: what the learning rate may be, from losses alone. Plain arithmetic, no torch.

Four bounds, each with its own switch; the tightest one counts. All are in eta_e, the step size of plain ZO-GD that
moves as far (`zoft.stability.spending`), with Tr the pessimistic trace of `CurvatureWatch` and sf the lower bound of
`SignalFraction`:

    curvature   margin x 2 q / Tr                        edge of stability of the full batch                  (6), (18)
    descent     margin x 2 q sf / Tr                     above 2 q sf / Tr a step raises the expected loss         (9)
    drift       share x ||w_0|| / (p_rms sqrt(d / q))    relative distance that noise walks in one step; none      (17)
                                                         where ||w_0|| <= eps sqrt(d): no weights to keep yet
                                                         (d here: the weights that the step moves, of a random
                                                         mask as many as are expected)
    noise       sqrt(2 x most q / (Tr p_rms^2))          what one step's noise costs, in units of the loss        (10)

Where no trace is positive (a saddle, a ridge, a loss that is linear) learning_rate=auto has nothing to divide by; it
then takes a share of the drift bound, or of the length of the training pair, eps sqrt(d).

Where a step moves one of several blocks of layers, Tr, sf, p_rms and d are those of that block, from its own steps. A rule
with momentum moves the others too, along remembered steps: there the tightest bound of all blocks counts, and one learning
rate is chosen for all.

The first one alone reassures wrongly in mini-batch training: runs fail far below it (docs/experiments.md).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from zoft.governor import Decision, Evidence, Request
from zoft.stability.averages import SignalFraction
from zoft.stability.curvature import CurvatureWatch
from zoft.stability.own import Own
from zoft.stability.settings import StabilitySettings
from zoft.stability.spending import HEAVY_BALL, Gain, normalisation
from zoft.stability.theory import band, drift, level, noise_paid, signal_fraction

logger = logging.getLogger(__name__)
BOUNDS = ("none", "curvature", "descent", "drift", "noise")  # position = the number in the metric stability/bound
LEVELS = ("safe", "near", "over", "blow-up likely")  # position = the number in the metric stability/level
GROWTH = 1.02  # most by which a chosen learning rate grows in one step; it may fall at once


def _all_layers(step: int) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the monitor must know of a run and cannot see in losses."""

    rule: Mapping[str, Any]  # Rule.settings()
    directions: int  # q
    eps: float  # radius of the training pair [length]
    elements: int  # d, trainable weights
    weights_norm: float  # ||w_0|| [length], see `zoft.stability.reference`
    batch_fraction: float = 0.0  # examples in a batch / examples there are; 0: far more than one batch
    base_lr: float = 1.0  # the schedule's learning rate before its factor; auto multiplies that factor alone
    rule_state: Callable[[], Mapping[str, Any]] = dict  # of the rule, before the step that is decided on
    forwards: int | None = None  # of one training step; None: 2 q
    lean: float = 0.0  # a one-sided slope is z'grad L + lean z'Hz [length]
    stretch: Callable[[], float] = lambda: 1.0  # root mean square of an element of a direction
    block: Callable[[int], int | None] = _all_layers  # of layers, that a step moves; None: all
    sizes: tuple[int, ...] = ()  # weights that a step moves in each block; (): there is one, and all
    tail: float | None = None  # most that E(w'z)^4 can be of ||w||^4, for directions without a closed form

    @property
    def step_forwards(self) -> int:
        """Of one training step."""
        return self.forwards or 2 * self.directions

    def moving(self, block: int = 0) -> int:
        """How many weights a step of this block moves, of a random mask in the mean."""
        return self.sizes[block] if self.sizes else self.elements

    @property
    def heavy(self) -> float:
        """How far below 2 q / Tr every step size is stable, where there is no closed form; (S1) of docs/methods.md."""
        return 1.0 if self.tail is None else self.tail + self.directions - 1.0

    def pair(self, block: int = 0) -> float:
        """Distance of the training losses from the weights, eps sqrt(d), d those that move [length]."""
        return self.eps * math.sqrt(self.moving(block))

    def grown(self, block: int = 0) -> bool:
        """Are there weights to keep: larger than the distance at which losses are taken. A fresh head of zeros is not."""
        return self.weights_norm > self.pair(block)


class StabilityMonitor:
    """A Governor: asks for a centre loss now and then, and says what the learning rate may be.

    >>> around = Surroundings({"name": "sgd"}, directions=1, eps=0.5, elements=4, weights_norm=10.0)
    >>> settings = StabilitySettings(stability_every=1, stability_loss_noise=0.0)
    >>> monitor = StabilityMonitor(settings, around)
    >>> monitor.request(0).points[:3]
    ((), ((0, 0.5),), ((0, -0.5),))
    """

    def __init__(self, settings: StabilitySettings, around: Surroundings) -> None:
        self.settings, self.around = settings, around
        self.curvature = CurvatureWatch(settings, around.eps, around.step_forwards, max(1, len(around.sizes)))
        self.gain = Gain(around.rule)
        self.lambda_max = settings.stability_lambda_max  # l_1, where somebody measured it
        self.noise_paid = 0.0  # (10) [loss]
        self.drift = 0.0  # (17)
        self.bound = "none"  # which bound held the last step back
        self.bounded: dict[str, int] = {}  # bound -> steps that it held back
        self.limits: dict[str, float] = {}  # of the last step, bound -> largest learning rate
        self.lr_requested = self.lr_used = math.nan
        self.steps = 0  # spent
        self.forwards = 0  # of the steps themselves, a micro-batch
        self._own = [Own(around.batch_fraction) for _ in range(max(1, len(around.sizes)))]  # of each block of layers
        self._pooled = SignalFraction(around.batch_fraction)  # of all steps
        self._chosen = [0.0] * len(self._own)  # eta_e of learning_rate=auto; with momentum the first is that of all
        self._gain = 1.0
        self._flat = False  # has it been said that there is no curvature to choose by
        self._past: float | None = None  # mean normalisation of the steps in the momentum

    @property
    def signal(self) -> SignalFraction:
        """Of the block that the present step moves."""
        return self._own[self.curvature.block].signal

    @property
    def _bounding(self) -> range:
        """Blocks whose bounds hold for the present step: the one that moves, with momentum all."""
        block = self.curvature.block
        return range(len(self._own)) if self.gain.momentum > 0.0 else range(block, block + 1)

    @property
    def measuring(self) -> bool:
        """Are these the first steps of learning_rate=auto, which look and do not move?"""
        return self.settings.stability_auto and self.steps < self.settings.stability_auto_steps

    def request(self, step: int) -> Request:
        """See `zoft.governor.Governor`."""
        self.curvature.block = self.around.block(step) or 0
        return Request(self.curvature.points(step, dense=self.measuring))

    def decide(self, evidence: Evidence) -> Decision:
        """See `zoft.governor.Governor`. Losses that are not finite change nothing that was known."""
        self.curvature.block = self.around.block(evidence.step) or 0
        slopes = evidence.slopes
        if (
            len(slopes) != self.around.directions
        ):  # by a schedule; before the next reading is set, also of a resumed run
            self.around = replace(self.around, directions=len(slopes), forwards=evidence.forwards or None)
            self.curvature.step_forwards = self.around.step_forwards
        self.curvature.absorb(evidence)
        self.forwards += self.around.step_forwards
        square = math.fsum(p * p for p in slopes) / len(slopes)  # p^2, mean over directions
        if not math.isfinite(square):
            self.lr_requested, self.lr_used = evidence.lr, 0.0
            return Decision(evidence.lr)  # the optimizer spends nothing on such a step
        if evidence.halves is not None:
            product = math.fsum(a * b for a, b in zip(*evidence.halves, strict=True)) / len(slopes)
            if math.isfinite(product):
                for signal in (self.signal, self._pooled):
                    signal.add(product - self._common(), square)
        own, spent = self._own[self.curvature.block], evidence.spent or slopes
        own.square.add(square)
        own.size.add(math.fsum(map(abs, spent)) / len(spent))
        known = {**self.around.rule_state(), "size": own.size.value}
        self._gain = self.gain.now(spent, known) * self._normalised(normalisation(spent, slopes))
        self.limits = {name: eta / self._gain for name, eta in self._limits(square).items()}
        wanted = evidence.lr
        if self.settings.stability_auto:
            wanted = self._choose(square) / self._gain * (evidence.lr / self.around.base_lr)
        lr, self.bound = wanted, "none"
        if self.settings.stability == "cap":
            for name, limit in self.limits.items():
                if limit < lr:
                    lr, self.bound = limit, name
        if self.bound != "none":
            self.bounded[self.bound] = self.bounded.get(self.bound, 0) + 1
        self.lr_requested, self.lr_used = wanted, lr
        self._account(lr * self._gain, square)
        return Decision(lr, capped=self.bound != "none")

    def _normalised(self, now: float) -> float:
        """A rule with momentum also moves along earlier steps, as they were normalised: the larger of now and their mean."""
        if self._past is not None:
            self._past = self.gain.momentum * self._past + (1.0 - self.gain.momentum) * now
        else:
            self._past = now
        return max(now, self._past)

    def _common(self) -> float:
        """What the halves of a batch share besides the gradient: the curvature in one-sided slopes, (lean Tr)^2."""
        trace = self.curvature.pessimistic() if self.around.lean else None
        return 0.0 if trace is None else (self.around.lean * trace) ** 2

    def _limits(self, square: float) -> dict[str, float]:
        """Each bound that is switched on and has something to go by, in eta_e: the tightest of the blocks that move."""
        found: dict[str, float] = {}
        for block in self._bounding:
            for name, eta in self._limits_of(block, square if block == self.curvature.block else 0.0).items():
                found[name] = min(eta, found.get(name, math.inf))
        return found

    def _limits_of(self, block: int, square: float) -> dict[str, float]:
        settings, q, own = self.settings, self.around.directions, self._own[block]
        rms, trace = own.rms(square), self.curvature.pessimistic(block=block)
        found: dict[str, float] = {}
        if trace is not None:
            edge = 2.0 * q / trace / self.around.heavy
            if settings.stability_margin is not None:
                found["curvature"] = min(settings.stability_margin * edge, self._left_edge(trace))
            signal = self._signal(block)
            if settings.stability_descent_margin is not None and not math.isnan(signal):
                found["descent"] = settings.stability_descent_margin * edge * signal
            if settings.stability_noise is not None and rms > 0.0:
                found["noise"] = math.sqrt(2.0 * settings.stability_noise * q / trace) / rms
        if settings.stability_drift is not None and rms > 0.0 and self.around.grown(block):
            found["drift"] = self._walk(settings.stability_drift * self.around.weights_norm, rms, block)
        return found

    def _signal(self, block: int) -> float:
        """Lower bound of sf; of a block that has moved too seldom, that of all steps. nan: not known yet."""
        own = self._own[block].signal.lower()
        return self._pooled.lower() if math.isnan(own) else own

    def _walk(self, length: float, rms: float, block: int) -> float:
        """eta_e at which the noise of one step moves the weights by `length`; (17)."""
        return length / (rms * self.around.stretch() * math.sqrt(self.around.moving(block) / self.around.directions))

    def _left_edge(self, trace: float) -> float:
        """The sufficient edge of (6) in eta_e; no bound while l_1 is not known."""
        if self.lambda_max is None or self.lambda_max <= 0.0:
            return math.inf
        momentum, ema = self.gain.momentum, self.gain.name != HEAVY_BALL
        top = min(self.lambda_max, trace)
        edges = band(trace, top, momentum=momentum, directions=self.around.directions, ema=ema)
        return edges[0] / (1.0 - momentum) if self.gain.name == HEAVY_BALL else edges[0]

    def _choose(self, square: float) -> float:
        """eta_e of learning_rate=auto: margin x q sf / Tr, after measuring; grows slowly, falls at once."""
        if self.measuring:
            return 0.0
        targets = [self._target(block) for block in self._bounding]
        known = [eta for eta in targets if eta is not None]
        if not known:
            return self._without_curvature(square)
        return self._settle(min(known), GROWTH ** (1 if self.gain.momentum > 0.0 else len(self._own)))

    def _target(self, block: int) -> float | None:
        """What one block would choose; None: no curvature to go by."""
        trace, signal = self.curvature.pessimistic(block=block), self._signal(block)
        if trace is None:
            return None
        if math.isnan(signal):  # no half-batches: the full-batch edge and the drift are all there is
            signal = 0.1
        return self.settings.stability_auto_margin * self.around.directions * signal / trace / self.around.heavy

    def _without_curvature(self, square: float) -> float:
        """eta_e of learning_rate=auto while no trace was positive: margin x the length that drift allows, or the pair's."""
        if not self._flat:
            self._flat = True
            logger.warning(
                "no positive curvature in %d steps: learning_rate=auto goes by the distance of a step instead, "
                "until a trace can be believed (%d readings could not)", self.steps, self.curvature.held,
            )  # fmt: skip
        share, around, found = self.settings.stability_drift, self.around, math.inf
        for block in self._bounding:
            rms = self._own[block].rms(square if block == self.curvature.block else 0.0)
            length = share * around.weights_norm if share is not None and around.grown(block) else around.pair(block)
            if rms > 0.0:
                found = min(found, self._walk(self.settings.stability_auto_margin * length, rms, block))
        return self._settle(found, math.inf)

    def _settle(self, eta: float, growth: float) -> float:
        """The next choice for the block that moves: `eta`, but at most `growth` times the last one. inf: the last one stays."""
        block = self._bounding[0]
        before = self._chosen[block]
        limit = before * growth if before > 0.0 else math.inf
        self._chosen[block] = before if math.isinf(eta) else min(eta, limit)
        return self._chosen[block]

    def _account(self, eta: float, square: float) -> None:
        around, trace, block = self.around, self.curvature.seen.value, self.curvature.block
        if math.isfinite(trace):
            self.noise_paid += noise_paid(eta, trace, square, around.directions)
        if around.grown(block):
            length, moving = eta * around.stretch(), around.moving(block)
            self.drift = drift(length, square, around.weights_norm, moving, around.directions, self.drift)
        self.steps += 1

    @property
    def level(self) -> str | None:
        """Grade of the learning rate used against the edge of stability; None: no trace to go by."""
        trace = self.curvature.pessimistic(0.0)
        if trace is None or not math.isfinite(self.lr_used):
            return None
        return level(self.lr_used * self._gain * trace * self.around.heavy / (2.0 * self.around.directions))

    def metrics(self) -> dict[str, float]:
        """What goes into the log, under `stability/`; what is not known yet is left out."""
        seen, q = self.curvature.seen, self.around.directions
        found = {
            "trace": seen.value,
            "trace_stderr": seen.error,
            "trace_held": float(self.curvature.held),
            "forwards": float(self.curvature.forwards),
            "noise_paid": self.noise_paid,
            "drift": self.drift,
            "lr_requested": self.lr_requested,
            "lr_used": self.lr_used,
            "bound": float(BOUNDS.index(self.bound)),
        }
        trace = self.curvature.pessimistic(0.0)
        if trace is not None:
            top = self.lambda_max if self.lambda_max is not None else trace
            high = 2.0 * q / trace / self._gain / self.around.heavy
            found |= {"edge_low": min(self._always_safe(trace, min(top, trace)), high), "edge_high": high}
            value, _ = self.signal.read()
            if not math.isnan(value):
                found["signal_fraction"] = value
                found["descent_edge"] = high * signal_fraction(self._signal(self.curvature.block), 1.0)
            if self.level is not None:
                found["level"] = float(LEVELS.index(self.level))
        return {f"stability/{name}": value for name, value in found.items() if math.isfinite(value)}

    def _always_safe(self, trace: float, top: float) -> float:
        """Left edge (6) as a learning rate; with top = trace the always-safe edge (13)."""
        ema = self.gain.name != HEAVY_BALL
        low = band(trace, top, momentum=self.gain.momentum, directions=self.around.directions, ema=ema)[0]
        return low / (1.0 - self.gain.momentum) / self._gain if not ema else low / self._gain

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "curvature": self.curvature.state(), "signal": self._pooled.state(), "own": [own.state() for own in self._own],
            "noise_paid": self.noise_paid, "drift": self.drift, "steps": self.steps,
            "chosen": list(self._chosen), "weights_norm": self.around.weights_norm, "base_lr": self.around.base_lr,
            "bounded": dict(self.bounded), "past": self._past, "forwards": self.forwards,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken; ||w_0|| and the schedule's rate stay those of the run's beginning."""
        self.curvature.load(state["curvature"])
        self._pooled.load(state["signal"])
        for own, kept in zip(self._own, state.get("own", [state]), strict=False):  # once there was one
            own.load(kept)
        self.noise_paid, self.drift, self.steps = state["noise_paid"], state["drift"], state["steps"]
        self._chosen, self.bounded = list(state["chosen"]), dict(state["bounded"])
        self._past, self.forwards = state["past"], state["forwards"]
        self.around = replace(self.around, weights_norm=state["weights_norm"], base_lr=state["base_lr"])

    def rewound(self, state: dict[str, Any]) -> None:
        """The weights are back where `state` was taken. What was measured since then belongs to other weights; what was
        spent since then stays spent (steps, forwards, readings not believed)."""
        steps, own, bounded, watch = self.steps, self.forwards, self.bounded, self.curvature
        forwards, held = watch.forwards, watch.held
        self.load_state_dict(state)
        self.steps, self.forwards, self.bounded, watch.forwards, watch.held = steps, own, bounded, forwards, held
