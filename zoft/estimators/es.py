"""Evolution strategies: antithetic populations whose losses are made into fitness first."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from zoft.estimators.fzoo import deviation
from zoft.estimators.two_point import TwoPoint
from zoft.exact import mean


class ZScoredES(TwoPoint):
    """g = (1 / 2q) sum_j [f(L_j+) - f(L_j-)] z_j,   f(L) = (L - mean) / s, mean and s (divisor 2q) over all 2q losses

    2 q forwards; 2q is the population. The step is w - lr g: 1 / eps is left to the learning rate, which is then in units
    of the weights (Salimans et al. 2017; Qiu et al. 2025, "ES at scale"). s is about eps times the root mean square of the
    slopes, so this is two-point descent, normalised; with all losses equal nothing moves.

    Bias: on a linear loss with Gaussian z the mean is rho grad L / ||grad L||, rho = sqrt(2/q) Gamma((q+1)/2) / Gamma(q/2),
    which is sqrt(2/pi) at q = 1 (there it is the sign of the slope times z) and tends to 1.

    >>> ZScoredES(eps=0.5).coefficients([3.0, 1.0])
    (1.0,)
    """

    name = "es_zscore"
    normalised = True

    def coefficients(self, losses: Sequence[float]) -> tuple[float, ...]:
        spread = deviation(losses, len(losses))
        if spread == 0.0:
            return (0.0,) * (len(losses) // 2)
        middle = mean(losses)
        return _halved([(loss - middle) / spread for loss in losses])


class RankedES(TwoPoint):
    """g = (1 / 2q) sum_j [f(L_j+) - f(L_j-)] z_j,   f(L) = rank / (2q - 1) - 1/2, rank 0 for the lowest of the 2q losses

    Centred ranks (Salimans et al. 2017): no outlier counts for more than the next best. Equal losses share the mean of their
    ranks, so a flat loss moves nothing. 2 q forwards; the learning rate is in units of the weights.

    Bias: on a linear loss with Gaussian z the mean is rho grad L / ||grad L||,

        rho = [2 (q - 1) / sqrt(pi) + sqrt(2 / pi)] / (2 (2q - 1))

    >>> RankedES(eps=0.5).coefficients([3.0, 1.0, 2.0, 2.0])
    (0.25, 0.0)
    """

    name = "es_rank"
    normalised = True

    def coefficients(self, losses: Sequence[float]) -> tuple[float, ...]:
        if any(loss != loss for loss in losses):
            return (float("nan"),) * (len(losses) // 2)
        ordered, last = sorted(losses), len(losses) - 1
        ranks = [(bisect_left(ordered, loss) + bisect_right(ordered, loss) - 1) / 2.0 for loss in losses]
        return _halved([rank / last - 0.5 for rank in ranks])


def _halved(fitness: Sequence[float]) -> tuple[float, ...]:
    return tuple((plus - minus) / len(fitness) for plus, minus in zip(fitness[0::2], fitness[1::2], strict=True))
