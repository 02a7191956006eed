"""Refuses steps whose losses jump. Plain arithmetic.

Mean-square stability speaks of an average; a heavy tail can throw one run out all the same. What that looks like is a
loss, or a difference of losses, far outside its own recent history; or, at the edge of stability, a loss that climbs so
slowly that its recent history climbs with it (docs/experiments.md: threefold within a thousand steps, and lost).
"""

from __future__ import annotations

import math
from typing import Any, Literal

from zoft.governor import Evidence

DECAY = 0.95  # of the history: about 20 steps
FEWEST = 20  # steps of history before anything is refused
FEWEST_OF_BLOCK = 5  # of them, steps of a block before its slopes are refused
SMALLEST_SPREAD = 0.01  # of the mean loss: a loss that hardly varies is not thrown out for a percent
SLOW = 0.99  # of the average whose climb is watched: about 100 steps
SETTLED = 100  # steps after which that average means something
SMALLEST_LOSS = 0.05  # of the loss at the beginning: below it nothing counts as a climb
GOOD = 1.25  # x the lowest slow average: up to here is a place to come back to

Verdict = Literal["pass", "refuse", "rewind"]


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
        self._rows: dict[int, int] = {}  # block -> those of its own steps
        self._begun: dict[int, int] = {}  # block -> the first of them
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
        return self._row > 0 or any(self._rows.values())

    def rewound(self) -> None:
        """The weights are back at a good place: both averages begin again; what the lowest was is not forgotten."""
        self.restart()
        self._slow, self._passed = 0.0, 0

    def restart(self) -> None:
        """Forget the history: after a rewind, or when the loss has found a new level."""
        self._count, self._loss, self._spread, self._row = 0, 0.0, 0.0, 0
        self._squares: dict[int, tuple[int, float]] = {}  # block -> steps, and the average of their p^2
        self._rows = {}

    def judge(self, evidence: Evidence) -> Verdict:
        """What to do with this step; a step that passes enters the history."""
        square = math.fsum(p * p for p in evidence.slopes) / len(evidence.slopes)
        finite = math.isfinite(evidence.loss) and math.isfinite(square)
        self.climbed = False
        if finite and not self._far(evidence.loss, square, evidence.block):
            self._row = self._rows[evidence.block] = 0
            if not square:  # all losses equal, as scores may be: nothing moves, nothing is learnt of the scatter
                return "pass"
            self._remember(evidence.loss, square, evidence.block)
            self.climbed = self.may_rewind and self.rise is not None and self._slow > self._most(self.rise)
            self.refused += self.climbed
            return "rewind" if self.climbed else "pass"
        self.refused += 1
        self._row += 1
        self._rows[evidence.block] = self._rows.get(evidence.block, 0) + 1
        if self._rows[evidence.block] == 1:
            self._begun[evidence.block] = evidence.step
        if max(self._row, self._rows[evidence.block]) < self.patience:
            return "refuse"
        if self.may_rewind:
            self.waited = max(self._row - 1, evidence.step - self._begun[evidence.block])
            return "rewind"
        if finite and self._row < self.patience:  # a new level of this block alone
            self._squares.pop(evidence.block, None)
            self._rows[evidence.block] = 0
        elif finite:
            self.restart()
        return "refuse"

    def _far(self, loss: float, square: float, block: int) -> bool:
        if self._count < FEWEST:
            return False
        spread = max(math.sqrt(self._spread), SMALLEST_SPREAD * abs(self._loss))
        count, usual = self._squares.get(block, (0, 0.0))
        if count < FEWEST:  # too short a history of its own: rather that of the steepest block
            usual = max((other for _, other in self._squares.values()), default=0.0)
        jumps = count >= FEWEST_OF_BLOCK and square > self.threshold**2 * usual
        return jumps or loss > self._loss + self.threshold * spread

    def _remember(self, loss: float, square: float, block: int) -> None:
        count, usual = self._squares.get(block, (0, 0.0))
        self._squares[block] = count + 1, usual + max(1.0 - DECAY, 1.0 / (count + 1)) * (square - usual)
        weight = max(1.0 - DECAY, 1.0 / (self._count + 1))
        deviation = loss - self._loss if self._count else 0.0
        self._loss = self._loss + weight * deviation if self._count else loss
        self._spread += weight * (deviation**2 - self._spread)
        self._count += 1
        self._passed += 1
        self._slow += max(1.0 - SLOW, 1.0 / self._passed) * (loss - self._slow)
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
            "spread": self._spread, "blocks": [
                [block, *self._squares.get(block, (0, 0.0)), self._rows.get(block, 0), self._begun.get(block, 0)]
                for block in sorted({*self._squares, *self._rows})
            ],
            "slow": self._slow, "passed": self._passed,
            "first": None if math.isnan(self._first) else self._first,
            "lowest": None if self._lowest == math.inf else self._lowest,
        }  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        self.refused, self._row, self._count = state["refused"], state["row"], state["count"]
        self._loss, self._spread = state["loss"], state["spread"]
        blocks = state["blocks"] if "blocks" in state else [[0, state["count"], state["square"], state["row"], 0]]
        self._squares = {block: (count, square) for block, count, square, _, _ in blocks}
        self._rows = {block: row for block, _, _, row, _ in blocks}
        self._begun = {block: begun for block, _, _, _, begun in blocks}
        self._slow, self._passed = state["slow"], state["passed"]
        self._first = math.nan if state["first"] is None else state["first"]
        self._lowest = math.inf if state["lowest"] is None else state["lowest"]
