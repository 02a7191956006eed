"""One-sided differences in units of their own spread."""

from __future__ import annotations

import math
from collections.abc import Sequence

from zoft.estimators.one_sided import OneSided
from zoft.exact import fsum, mean


class FZOO(OneSided):
    """g = (1/q) sum_j [L(w + eps z_j) - L(w)] / s z_j,   s = standard deviation of the L(w + eps z_j), divisor q - 1

    q + 1 forwards (Dang et al. 2025, "FZOO"). s is about eps ||grad L||, so this is normalised descent: the learning rate is in
    units of the weights, and loss and eps may be rescaled freely. Where all losses are equal, s = 0, nothing is known
    and nothing moves.

    Bias: the mean is not the gradient. On a linear loss with Gaussian z it is rho(q) grad L / ||grad L|| with

        rho(q) = [(q - 1) E[t] + E[1/t]] / q,   (q - 1) t^2 chi-squared with q - 1 degrees of freedom

    (docs/methods.md). E[1/t] is infinite for q = 2, where two losses that happen to be close make a step of any length; hence
    q >= 3. The variance is finite from q = 4.

    >>> FZOO(eps=0.5).coefficients([1.0, 0.0, 1.0, 2.0])
    (-0.3333333333333333, 0.0, 0.3333333333333333)
    """

    name = "fzoo"
    least = 3
    normalised = True

    def coefficients(self, losses: Sequence[float]) -> tuple[float, ...]:
        centre, ends = losses[0], losses[1:]
        spread = deviation(ends, len(ends) - 1)
        if spread == 0.0:
            return (0.0,) * len(ends)
        return tuple((loss - centre) / spread / len(ends) for loss in ends)


def deviation(losses: Sequence[float], divisor: int) -> float:
    """Root of sum (L - mean)^2 / divisor; exactly 0 where all are equal; NaN if one is not finite.

    >>> deviation([0.1] * 3, 2), deviation([1.0, 3.0], 2)
    (0.0, 1.0)
    """
    if len(set(losses)) == 1 and math.isfinite(losses[0]):
        return 0.0  # their mean may be rounded
    middle = mean(losses)
    return math.sqrt(fsum((loss - middle) * (loss - middle) for loss in losses) / divisor)
