"""Refuses steps whose losses jump. Plain arithmetic.

Mean-square stability speaks of an average; a heavy tail can throw one run out all the same. What that looks like is a
loss, or a difference of losses, far outside its own recent history.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from zoft.governor import Evidence

DECAY = 0.95  # of the history: about 20 steps
FEWEST = 20  # steps of history before anything is refused
SMALLEST_SPREAD = 0.01  # of the mean loss: a loss that hardly varies is not thrown out for a percent

Verdict = Literal["pass", "refuse", "rewind"]


class Guard:
    """Looks at one step at a time. History: averages of the loss, of its scatter, and of p^2, over passed steps only.

    A step is refused when a loss is not finite, when the loss lies more than `threshold` spreads above its mean, or
    when |p| is more than `threshold` times its root mean square. After `patience` refusals in a row the verdict is
    `rewind` where that was allowed; otherwise a finite loss is taken for a new level, and the history begins again,
    since waiting any longer would stop the run for good.
    """

    def __init__(self, threshold: float = 10.0, patience: int = 5, may_rewind: bool = False) -> None:
        self.threshold, self.patience, self.may_rewind = threshold, patience, may_rewind
        self.refused = 0  # in all
        self._row = 0  # refused in a row
        self.restart()

    def restart(self) -> None:
        """Forget the history: after a rewind, or when the loss has found a new level."""
        self._count, self._loss, self._spread, self._square, self._row = 0, 0.0, 0.0, 0.0, 0

    def judge(self, evidence: Evidence) -> Verdict:
        """What to do with this step; a step that passes enters the history."""
        square = math.fsum(p * p for p in evidence.slopes) / len(evidence.slopes)
        finite = math.isfinite(evidence.loss) and math.isfinite(square)
        if finite and not self._far(evidence.loss, square):
            self._remember(evidence.loss, square)
            return "pass"
        self.refused += 1
        self._row += 1
        if self._row < self.patience:
            return "refuse"
        if self.may_rewind:
            return "rewind"
        if finite:
            self.restart()
        return "refuse"

    def _far(self, loss: float, square: float) -> bool:
        if self._count < FEWEST:
            return False
        spread = max(math.sqrt(self._spread), SMALLEST_SPREAD * abs(self._loss))
        return loss > self._loss + self.threshold * spread or square > self.threshold**2 * self._square

    def _remember(self, loss: float, square: float) -> None:
        weight = max(1.0 - DECAY, 1.0 / (self._count + 1))
        deviation = loss - self._loss if self._count else 0.0
        self._loss = self._loss + weight * deviation if self._count else loss
        self._spread += weight * (deviation**2 - self._spread)
        self._square += weight * (square - self._square)
        self._count += 1
        self._row = 0

    def state(self) -> dict[str, Any]:
        return {
            "refused": self.refused, "row": self._row, "count": self._count, "loss": self._loss,
            "spread": self._spread, "square": self._square,
        }  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        self.refused, self._row, self._count = state["refused"], state["row"], state["count"]
        self._loss, self._spread, self._square = state["loss"], state["spread"], state["square"]
