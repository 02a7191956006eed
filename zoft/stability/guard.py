"""Refuses steps whose losses jump. Plain arithmetic.

Mean-square stability speaks of an average; a heavy tail can throw one run out all the same. What that looks like is a
loss, or a difference of losses, far outside its own recent history; or, at the edge of stability, a loss that climbs so
slowly that its recent history climbs with it (docs/experiments.md: threefold within a thousand steps, and lost).
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass
from typing import Any, Literal

from zoft.governor import Evidence
from zoft.stability.averages import blend_weight

DECAY = 0.95  # of the history: about 20 steps
FEWEST = 20  # steps of history before anything is refused
FEWEST_OF_BLOCK = 5  # of them, steps of a block before its slopes are refused
SMALLEST_SPREAD = 0.01  # of the mean loss: a loss that hardly varies is not thrown out for a percent
SLOW = 0.99  # of the average whose climb is watched: about 100 steps
SETTLED = 100  # steps after which that average means something
SMALLEST_LOSS = 0.05  # of the loss at the beginning: below it nothing counts as a climb
GOOD = 1.25  # x the lowest slow average: up to here is a place to come back to

Verdict = Literal["pass", "refuse", "rewind"]


@dataclass
class _OfBlock:
    """History of the steps of one block of layers."""

    count: int = 0  # passed
    square: float = 0.0  # the average of their p^2
    row: int = 0  # refused in a row
    begun: int = 0  # the first of these


class Guard:
    """Looks at one step at a time. History: averages of the loss, of its scatter, and of p^2, over passed steps only.

    A step is refused when a loss is not finite, when the loss lies more than `threshold` spreads above its mean, or
    when |p| is more than `threshold` times its root mean square, which is one for each block of layers that steps move in
    turn, as their slopes differ. After `patience` refusals in a row, of all steps or of those of one block, the verdict is
    `rewind` where that was allowed; otherwise a finite loss is taken for a new level, and the history begins again,
    since waiting any longer would stop the run for good.

    Where rewinding is allowed a slow climb is watched as well: the average loss of about 100 steps against its lowest
    value so far (or 5 % of what it was at first, if that is more). At `rise` times that, the verdict is `rewind` too. A loss
    below zero, that of a reward, has no multiples: there the verdict falls when all is lost that was gained since the first
    100 steps, and a spread more.
    """

    def __init__(
        self, threshold: float = 10.0, patience: int = 5, may_rewind: bool = False, rise: float | None = 3.0
    ) -> None:
        self.threshold, self.patience, self.may_rewind, self.rise = threshold, patience, may_rewind, rise
        self.refused = 0  # in all
        self.climbed = False  # was the last verdict for a slow climb
        self._row = 0  # refused in a row
        self.waited = 0  # steps since the first refusal that led to the last verdict to rewind
        self._slow, self._passed = 0.0, 0  # average of the loss, and how many steps are in it
        self._first, self._lowest = math.nan, math.inf  # of that average, once it is 100 steps old
        self.restart()

    @property
    def good(self) -> bool:
        """Is this a place to come back to: nothing refused just now, and the slow average near its lowest."""
        if self._lowest == math.inf:  # the first 100 steps
            return not self._refusing
        near = GOOD * self._least()
        if self._lowest <= 0.0:
            near = self._lowest + (GOOD - 1.0) * max(self._first - self._lowest, math.sqrt(self._spread))
        return not self._refusing and self._passed >= SETTLED and self._slow <= near

    @property
    def _refusing(self) -> bool:
        return self._row > 0 or any(own.row for own in self._blocks.values())

    def rewound(self) -> None:
        """The weights are back at a good place: both averages begin again; what the lowest was is not forgotten."""
        self.restart()
        self._slow, self._passed = 0.0, 0

    def restart(self) -> None:
        """Forget the history: after a rewind, or when the loss has found a new level."""
        self._count, self._loss, self._spread, self._row = 0, 0.0, 0.0, 0
        self._blocks: dict[int, _OfBlock] = {}

    def judge(self, evidence: Evidence) -> Verdict:
        """What to do with this step; a step that passes enters the history."""
        square = math.fsum(p * p for p in evidence.slopes) / len(evidence.slopes)
        finite = math.isfinite(evidence.loss) and math.isfinite(square)
        self.climbed, own = False, self._blocks.setdefault(evidence.block, _OfBlock())
        if finite and not self._far(evidence.loss, square, own):
            self._row = own.row = 0
            if not square:  # all losses equal, as scores may be: nothing moves, nothing is learnt of the scatter
                return "pass"
            self._remember(evidence.loss, square, own)
            self.climbed = self.may_rewind and self.rise is not None and self._slow > self._most(self.rise)
            self.refused += self.climbed
            return "rewind" if self.climbed else "pass"
        self.refused += 1
        self._row += 1
        if not own.row:
            own.begun = evidence.step
        own.row += 1
        if max(self._row, own.row) < self.patience:
            return "refuse"
        if self.may_rewind:
            self.waited = max(self._row - 1, evidence.step - own.begun)
            return "rewind"
        if finite and self._row < self.patience:  # a new level of this block alone
            self._blocks[evidence.block] = _OfBlock()
        elif finite:
            self.restart()
        return "refuse"

    def _far(self, loss: float, square: float, own: _OfBlock) -> bool:
        if self._count < FEWEST:
            return False
        spread = max(math.sqrt(self._spread), SMALLEST_SPREAD * abs(self._loss))
        usual = own.square
        if own.count < FEWEST:  # too short a history of its own: rather that of the steepest block
            usual = max(other.square for other in self._blocks.values())
        jumps = own.count >= FEWEST_OF_BLOCK and square > self.threshold**2 * usual
        return jumps or loss > self._loss + self.threshold * spread

    def _remember(self, loss: float, square: float, own: _OfBlock) -> None:
        own.square += blend_weight(DECAY, own.count) * (square - own.square)
        own.count += 1
        weight = blend_weight(DECAY, self._count)
        deviation = loss - self._loss if self._count else 0.0
        self._loss = self._loss + weight * deviation if self._count else loss
        self._spread += weight * (deviation**2 - self._spread)
        self._count += 1
        self._slow += blend_weight(SLOW, self._passed) * (loss - self._slow)
        self._passed += 1
        if self._passed >= SETTLED:
            self._first = self._slow if math.isnan(self._first) else self._first
            self._lowest = min(self._lowest, self._slow)

    def _most(self, rise: float) -> float:
        """Slow averages above it are a climb."""
        if self._lowest <= 0.0:
            return self._first + math.sqrt(self._spread) if self._passed >= SETTLED else math.inf
        return rise * self._least()

    def _least(self) -> float:
        return self._lowest if self._lowest == math.inf else max(self._lowest, SMALLEST_LOSS * self._first)

    def state(self) -> dict[str, Any]:
        return {
            "refused": self.refused, "row": self._row, "count": self._count, "loss": self._loss,
            "spread": self._spread, "blocks": [[block, *astuple(self._blocks[block])] for block in sorted(self._blocks)],
            "slow": self._slow, "passed": self._passed,
            "first": None if math.isnan(self._first) else self._first,
            "lowest": None if self._lowest == math.inf else self._lowest,
        }  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        self.refused, self._row, self._count = state["refused"], state["row"], state["count"]
        self._loss, self._spread = state["loss"], state["spread"]
        blocks = state["blocks"] if "blocks" in state else [[0, state["count"], state["square"], state["row"], 0]]
        self._blocks = {block: _OfBlock(*own) for block, *own in blocks}
        self._slow, self._passed = state["slow"], state["passed"]
        self._first = math.nan if state["first"] is None else state["first"]
        self._lowest = math.inf if state["lowest"] is None else state["lowest"]
