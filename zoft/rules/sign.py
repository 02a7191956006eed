"""Sign descent."""

from __future__ import annotations

from collections.abc import Sequence

from zoft.backends import Move, Term
from zoft.directions import Direction, Distribution, LowRank
from zoft.errors import UsageError
from zoft.estimate import Step
from zoft.rules.base import Rule, State


class Sign(Rule):
    """w <- w - lr sign(g), element by element; sign(0) = 0.  (Bernstein et al. 2018, "signSGD"; Liu et al. 2019, "ZO-signSGD".)

    With one direction of signs g = c z, sign(c z) is sign(c) z exactly, so nothing is kept and every weight moves by lr.
    Several directions, or Gaussian ones, would need the sign of a sum (of a normal number) at every element, which is no
    multiple of a direction: they are refused, and not replaced by the sign of the scalar.

    On a quadratic E[change of loss] = -lr E|p| + lr^2 Tr(H) / 2: it does not diverge, but stops descending where
    E|p| = lr Tr / 2, and only a smaller lr goes further down.
    """

    name = "sign"
    single = True

    def check(self, directions: Sequence[Direction]) -> None:
        if isinstance(directions[0].form, LowRank):
            raise UsageError(
                f"zo_rule=sign needs dense directions of signs, whose sign is a direction itself, but "
                f"zo_shape={directions[0].form.shape} was given, whose products are no signs; take zo_shape=dense"
            )
        if len(directions) == 1 and directions[0].distribution is Distribution.RADEMACHER:
            return
        raise UsageError(
            f"zo_rule=sign needs zo_directions=1 and zo_distribution=rademacher, where the sign of g is a direction "
            f"itself, but {len(directions)} of {directions[0].distribution} were given; average over a larger batch instead"
        )

    def move(self, state: State, step: Step) -> tuple[Move, State]:
        self.check(step.estimate.directions)
        (coefficient,) = step.estimate.coefficients
        sign = (coefficient > 0.0) - (coefficient < 0.0)
        return Move((Term(step.estimate.directions[0], -step.lr * sign),)), state
