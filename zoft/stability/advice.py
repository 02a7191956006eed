"""From one measurement of a checkpoint to learning rates of the run's own rule. Plain arithmetic, no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from zoft.stability.averages import SignalFraction
from zoft.stability.monitor import Surroundings
from zoft.stability.reading import Reading
from zoft.stability.settings import StabilitySettings
from zoft.stability.spending import HEAVY_BALL, SIGN, Gain
from zoft.stability.theory import descent_edge, edge_ratio, level, loss_only_band, right_edge


@dataclass(frozen=True)
class Measured:
    """What losses around one place told."""

    trace: Reading
    frobenius_squared: Reading  # of Gaussian probes
    signal: SignalFraction
    square: float  # mean p^2 of mini-batch slopes [loss^2 / length^2]
    size: float  # mean |p| [loss / length]


@dataclass(frozen=True)
class Advice:
    """Learning rates of the run's rule, each range with one standard error of what it was measured from."""

    gain: float  # eta_e / lr, see `Gain`
    edge: tuple[float, float]  # stable below the first, unstable above the second; sign descent: where descent ends
    descent: tuple[float, float]  # (9)
    drift: float  # at which a step walks `stability_drift` x ||w_0|| (17); inf where there is no such bound
    recommended: tuple[
        float, float
    ]  # from what learning_rate=auto would take (at most half) to what no bound would lower
    heavy: float = 1.0  # by how much the safe edge (S1) lies below 2 q / Tr; 1 for dense directions

    def grade(self, lr: float, measured: Measured, directions: int) -> tuple[float, str]:
        """(s, its level) of a learning rate that was asked for, in units of the edge or of the safe one; equation (15)."""
        s = edge_ratio(lr * self.gain * self.heavy, measured.trace.value, directions=directions)
        return s, level(s)


def advise(measured: Measured, around: Surroundings, settings: StabilitySettings) -> Advice | None:
    """Edges and a recommended range; None where the trace cannot be told from zero, so that there is no edge.

    Momentum, adam and sign by `Gain`, q directions as everywhere: the edges are 2 q / Tr in eta_e = gain x lr. The lower
    end of `edge` is loss_only_band's, from ||H||_F (7). Adam divides by the sqrt(p^2 / q) that was measured here, (E6).
    Directions without a closed form (`around.tail`): the lower end is the safe edge (S1), and the other rates follow from it.

    Raises:
        UsageError: the edge of this rule is not known.
    """
    q, rule = around.directions, Gain(around.rule)
    rms = math.sqrt(measured.square)
    gain = rule.now((rms,) * q, {"size": measured.size})
    trace = measured.trace
    least, most = trace.lower(1.0), trace.upper(1.0)
    if not (trace.interpretable and least > 0.0 and math.isfinite(most)):
        return None
    value, error = measured.signal.read()
    sure, hoped = measured.signal.lower(), min(max(value + error, 0.0), 1.0)
    descent = (
        descent_edge(sure, most, directions=q) / gain / around.heavy,
        descent_edge(max(hoped, sure), least, directions=q) / gain / around.heavy,
    )
    drift = math.inf
    if settings.stability_drift is not None and around.grown() and rms > 0.0:
        drift = settings.stability_drift * around.weights_norm / (rms * math.sqrt(around.moving() / q)) / gain
    edge = _edge(measured, rule, gain, q)
    allowed = edge[1] / around.heavy
    if around.tail is not None:
        edge = min(edge[0], edge[1] * least / most / around.heavy), edge[1]
    shares = ((settings.stability_descent_margin, descent[1]), (settings.stability_margin, allowed), (1.0, drift))
    high = min(share * bound for share, bound in shares if share is not None)
    low = min(0.5 * settings.stability_auto_margin * descent[0], 0.5 * high)
    return Advice(gain, edge, descent, drift, (low, high), around.heavy)


def _edge(measured: Measured, rule: Gain, gain: float, q: int) -> tuple[float, float]:
    least, most = measured.trace.lower(1.0), measured.trace.upper(1.0)
    if rule.name == SIGN:  # no edge, but a plateau, at the same place
        return right_edge(most) / gain, right_edge(least) / gain
    heavy = rule.name == HEAVY_BALL
    unit = gain * (1.0 - rule.momentum) if heavy else gain  # theory has heavy ball's factor 1 - beta already
    spread = measured.frobenius_squared
    variance = 2.0 * min(max(spread.value + spread.standard_error, 0.0), most**2)
    low, _ = loss_only_band(most, variance, momentum=rule.momentum, directions=q, ema=not heavy)
    return low / unit, right_edge(least, momentum=rule.momentum, directions=q, ema=not heavy) / unit
