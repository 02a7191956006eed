"""Muon on gradients of low rank."""

from __future__ import annotations

from collections.abc import Sequence

from zoft.backends import Move, PolarMove, Term
from zoft.directions import Direction, LowRank
from zoft.errors import UsageError
from zoft.estimate import Step
from zoft.limits import check_share
from zoft.rules.base import Rule, State
from zoft.rules.window import check_window, recall, remember

MOST_RANK = 64  # of the remembered gradients together: eigenvalues of matrices of this size are found in every step


class Muon(Rule):
    """w <- w - lr sqrt(N K / R) polar(m),  m = sum_k beta^k g_{t-k} over the last `window` steps, of rank R, for w [N, K]

    polar(m) = U V' of m = U S V': all singular values become one (Jordan et al. 2024, "Muon"; on zeroth-order estimates
    "ZO-Muon"). With directions of thin factors m = (sum_k beta^k sum_j c_kj A_kj) B' within a period of `zo_refresh` steps,
    and the columns of two periods side by side where the window reaches back into the last one. The orthogonal factor is
    exact, from Gram matrices in float64, where Newton and Schulz's iteration approximates it (`zoft.backends.polar`). A
    vector is a matrix of one column: m / ||m||. Nothing is kept beside the list, nothing as large as the weights is made.

    sqrt(N K / R) makes the mean square of a weight's move lr^2 for every shape: the learning rate is in units of the weights.
    With one direction of signs, rank 1 and beta = 0 the move is -lr sign(c) z. The step's length does not shrink with the
    gradient: like sign descent it settles where lr is at the edge, and there is no closed form for what it does before.
    """

    name = "muon"
    single = True
    sums = False

    def __init__(self, beta: float = 0.9, window: int | None = None) -> None:
        """
        Args:
            beta: share of m that survives a step, in [0, 1).
            window: remembered steps; None: as many as make beta^window <= 1 %.

        Raises:
            UsageError: beta or window out of range.
        """
        check_share("zo_momentum", beta)
        self.beta, self.window = beta, check_window(window, beta)

    def init(self) -> State:
        return {"window": []}

    def check(self, directions: Sequence[Direction]) -> None:
        form = directions[0].form
        if not isinstance(form, LowRank):
            raise UsageError(
                "zo_rule=muon takes the orthogonal factor of a gradient through its thin factors, and dense directions have "
                "none; set zo_shape=low_rank or subspace (with zo_refresh, so that steps share a factor)"
            )
        shared = form.refresh > 1
        right = 1 + (self.window + form.refresh - 2) // form.refresh if shared else self.window * len(directions)
        if right * form.rank > MOST_RANK:
            raise UsageError(
                f"zo_rule=muon would remember gradients of rank {right * form.rank} together ({right} right factors of "
                f"zo_rank={form.rank}), and {MOST_RANK} is the most: take a longer zo_refresh, a shorter zo_momentum_window or "
                "a lower zo_rank"
            )

    def move(self, state: State, step: Step) -> tuple[Move, State]:
        window = [*state["window"], remember(step.estimate)][-self.window :]
        ages = reversed(range(len(window)))
        terms = (
            Term(term.direction, self.beta**age * term.scale)
            for age, gradient in zip(ages, window, strict=True)
            for term in recall(gradient)
        )
        return PolarMove(tuple(terms), factor=-step.lr), {
            "window": window[1 - self.window :] if self.window > 1 else []
        }

    def settings(self) -> State:
        return {"name": self.name, "beta": self.beta, "window": self.window}
