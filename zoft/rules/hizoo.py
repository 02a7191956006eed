"""Descent along directions that are scaled by a running diagonal of the Hessian."""

from __future__ import annotations

from collections.abc import Sequence

from zoft.backends import CurvedMove, Move
from zoft.directions import Direction, Distribution
from zoft.errors import UsageError
from zoft.estimate import Step
from zoft.limits import check_share
from zoft.rules.base import Rule, State
from zoft.rules.window import gradient


class HiZOO(Rule):
    """w <- w - lr g,  g = sum_j c_j z_j / sqrt(h);  then  h <- h [1 - s + (s / q) sum_j |h_j| z_j^2 / 2],  h = 1 at first

    element by element, with h_j the curvature along z_j / sqrt(h) (Zhao et al. 2024, "HiZOO"). Losses are taken along the
    scaled directions too (`zoft.backends.scaled`), so on a fixed h this is plain descent in the weights sqrt(h) w, whose
    Hessian is H~ = h^-1/2 H h^-1/2: its mean is -lr grad L / h, its edge of stability that of H~. State: h, 4 bytes a
    weight, always float32 (float64 for float64 weights). Forwards: 2 q + 1 (zo_estimator=three_point); h of the next step
    comes from the losses of this one, where the paper's code takes a fourth.

    With normal z and positive H the mean of the bracket is 1 - s + s (Tr H~ + 2 H~_ii) / 2: h follows the diagonal, beside a
    common growth that is d times as large, and comes to rest at h_i = (d + 2) H_ii / 2. With signs z_i^2 = 1 all elements of h
    are one number, which is refused.
    """

    name = "hizoo"
    single = True
    sums = False
    curved = True
    buffers = ("curvature",)

    def __init__(self, smoothing: float = 1e-6) -> None:
        """
        Args:
            smoothing: s, the share of h that a step replaces, in [0, 1). 0: plain descent.

        Raises:
            UsageError: out of range.
        """
        check_share("zo_hessian_smoothing", smoothing)
        self.smoothing = smoothing

    def check(self, directions: Sequence[Direction]) -> None:
        if any(d.distribution is not Distribution.GAUSSIAN or d.form for d in directions):
            raise UsageError(
                "zo_rule=hizoo tells weights apart by the squares of z's elements: it needs zo_distribution=gaussian and "
                f"zo_shape=dense, but {directions[0].distribution} and {directions[0].form or 'dense'} were given"
            )

    def move(self, state: State, step: Step) -> tuple[Move, State]:
        q = len(step.estimate.directions)
        shares = tuple(self.smoothing * abs(curvature) / (2.0 * q) for curvature in step.estimate.curvatures)
        return CurvedMove(gradient(step.estimate, -step.lr), keep=1.0 - self.smoothing, shares=shares), state

    def settings(self) -> State:
        return {"name": self.name, "smoothing": self.smoothing}
