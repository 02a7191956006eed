"""What one unit of learning rate moves under each update rule, so that one set of edges serves all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from zoft.errors import UsageError
from zoft.stability.theory import scalar_adam_scale

SGD, HEAVY_BALL, ADAM, SIGN = "sgd", "momentum", "adam", "sign"
FULL_ADAM, ADAMEZO, HIZOO, MUON = "full_adam", "adamezo", "hizoo", "muon"
KNOWN = (SGD, HEAVY_BALL, ADAM, FULL_ADAM, ADAMEZO, HIZOO, MUON, SIGN)
COEFFICIENT = 0  # place of the scalar in what `zoft.rules.window.remember` writes
OWN_ROOT = math.sqrt(math.pi / 2.0)  # 1 / E|x| of a normal x: most that dividing by its own size takes from a gradient


def normalisation(spent: Sequence[float], slopes: Sequence[float]) -> float:
    """eta_e / lr of an estimator that spends s_j = q c_j instead of the slopes p_j: sum s_j^2 / sum s_j p_j.

    A step along independent directions changes the loss by -lr sum c_j p_j + lr^2 (Tr/2) sum c_j^2 in the mean, so it
    descends while lr x this < 2 q / Tr, the edge of plain descent. 1 for s = p; eps / spread where s_j = eps p_j / spread.
    Of a step that moves nothing, 1.

    >>> normalisation([2.0, 4.0], [2.0, 4.0]), normalisation([1.0, 2.0], [2.0, 4.0]), normalisation([0.0], [0.0])
    (1.0, 0.5, 1.0)
    """
    if spent is slopes:
        return 1.0
    share = math.fsum(s * p for s, p in zip(spent, slopes, strict=True))
    return math.fsum(s * s for s in spent) / share if share > 0.0 else 1.0


class Gain:
    """eta_e = lr x gain: the step size of plain ZO-GD that moves as far in the long run; (E3), (E4), (E6).

        sgd 1,     heavy ball 1 / (1 - beta),     scalar adam 1 / (sqrt(v^) + delta),  v^ = mean of p^2 / q
        sign 1 / mean of |p|
        hizoo 1: probes share its scaled directions, so that Tr is that of h^-1/2 H h^-1/2
        muon 1 / ((1 - beta) rms of an element of m),  rms^2 = sum_k beta^2k sum_j c_kj^2 over its window
        full_adam, adamezo sqrt(pi / 2) times scalar adam's, v^ being the mean of the tensor over the draws of z

    In eta_e the right edge is 2 q / Tr for the first three: (6) for heavy ball and, with P^-1 H in the place of H, (18). Sign
    descent has no edge, but stops descending just there, lr / E|p| = 2 / Tr (`zoft.rules.sign`).

    A second moment of every weight has a closed form while it stands still (3), which takes the tensor. While it moves it is
    correlated with the gradient: after the first step of full_adam every weight moves by lr sign(g_i), whose square is the
    scalar's and whose share of the gradient is E|x| = sqrt(2 / pi) of it for normal g_i. Hence the factor: the safe edge.

    >>> Gain({"name": "momentum", "beta": 0.75}).now([1.0], {}), Gain({"name": "sgd"}).now([1.0], {})
    (4.0, 1.0)

    Raises:
        UsageError: the threshold of this rule is not known.
    """

    def __init__(self, rule: Mapping[str, Any]) -> None:
        if rule["name"] not in KNOWN:
            raise UsageError(
                f"the edge of stability is not known for zo_rule={rule['name']}; set stability=off, "
                f"or take one of {', '.join(KNOWN)}"
            )
        self.name: str = rule["name"]
        self.momentum = float(rule.get("beta", 0.0))
        self._beta2, self._delta = float(rule.get("beta2", 0.0)), float(rule.get("delta", 0.0))

    def now(self, slopes: Sequence[float], state: Mapping[str, Any]) -> float:
        """The gain of a step with these slopes p_j [q]; adam's second moment in `state`, the rule's, and they count."""
        if self.name in (SGD, HIZOO):
            return 1.0
        if self.name == HEAVY_BALL:
            return 1.0 / (1.0 - self.momentum)
        if self.name == SIGN:
            return 1.0 / state["size"] if state["size"] > 0.0 else 1.0  # where nothing slopes nothing moves
        if self.name == ADAMEZO:
            ages, squares = _windowed(slopes, state.get("window", ()), self._beta2)
            return OWN_ROOT / (math.sqrt(math.fsum(squares) / math.fsum(ages)) + self._delta)
        if self.name == MUON:
            _, squares = _windowed(slopes, state.get("window", ()), self.momentum * self.momentum)
            rms = math.sqrt(math.fsum(squares))
            return 1.0 / ((1.0 - self.momentum) * rms) if rms > 0.0 else 1.0
        square = math.fsum(p * p for p in slopes) / len(slopes) ** 2  # sum of c_j^2, c_j = p_j / q
        v = self._beta2 * state.get("v", 0.0) + (1.0 - self._beta2) * square
        scale = scalar_adam_scale(v / (1.0 - self._beta2 ** (state.get("spent", 0) + 1)), adam_eps=self._delta)
        return (OWN_ROOT if self.name == FULL_ADAM else 1.0) / scale


def _windowed(
    slopes: Sequence[float], window: Sequence[Sequence[Sequence[Any]]], beta: float
) -> tuple[list[float], list[float]]:
    """beta^k, and beta^k sum_j c_kj^2, of this step (k = 0) and the remembered ones."""
    now = math.fsum(p * p for p in slopes) / len(slopes) ** 2
    squares = [now, *(math.fsum(entry[COEFFICIENT] ** 2 for entry in past) for past in reversed(window))]
    ages = [beta**age for age in range(len(squares))]
    return ages, [weight * square for weight, square in zip(ages, squares, strict=True)]
