"""The settings that decide stability besides the spectrum, and the three numbers that follow from them."""

from dataclasses import dataclass
from typing import Literal, TypedDict, Unpack

from zoft.errors import UsageError

Distribution = Literal["gaussian", "rademacher_diagonal", "sphere"]


class Dynamics(TypedDict, total=False):
    """Keyword settings shared by every threshold in this package; each one has a default.

    momentum:     beta in [0, 1), default 0
    directions:   q >= 1, the number of directions averaged in one estimate (E2), default 1
    ema:          False: heavy ball `m <- beta m + g` (E3), the default; True: `m <- beta m + (1 - beta) g` (E4)
    distribution: "gaussian" (default); "sphere" of radius sqrt(d); "rademacher_diagonal": exact where the
                  eigenvectors of H are the coordinate axes. For Rademacher directions and any other H use "gaussian":
                  by (14) every step size that is stable there is stable for Rademacher and for the sphere.
    dimension:    d, the number of weights, zero eigenvalues included; needed by "sphere" and read by nothing else
    """

    momentum: float
    directions: int
    ema: bool
    distribution: Distribution
    dimension: int


@dataclass(frozen=True)
class Terms:
    """The numbers of equation (11): `sum_i shared * h_i / (damping - c h_i) < q`, with h_i = lr * scale * l_i.

    >>> terms(momentum=0.5)
    Terms(directions=1, damping=1.0, scale=1.0, own=2.0, shared=1.0, c=1.3333333333333335)
    """

    directions: int  # q
    damping: float  # 2 (1 - beta)
    scale: float  # 1 for heavy ball, 1 - beta for EMA momentum
    own: float  # a in (E u u' A u u')_ii = a A_ii + b Tr A (E7)
    shared: float  # b in the same
    c: float  # 1 + (a - 1) / q - 2 beta / (1 + beta)


def terms(**dynamics: Unpack[Dynamics]) -> Terms:
    """Check the settings and turn them into the numbers of (11); raises UsageError where one makes no sense."""
    momentum = dynamics.get("momentum", 0.0)
    directions = dynamics.get("directions", 1)
    if not 0.0 <= momentum < 1.0:
        raise UsageError(f"momentum must lie in [0, 1), got {momentum!r}")
    if directions < 1:
        raise UsageError(f"directions must be at least 1, got {directions!r}")
    own, shared = fourth_moment(dynamics.get("distribution", "gaussian"), dynamics.get("dimension"))
    return Terms(
        directions=directions,
        damping=2.0 * (1.0 - momentum),
        scale=1.0 - momentum if dynamics.get("ema", False) else 1.0,
        own=own,
        shared=shared,
        c=1.0 + (own - 1.0) / directions - 2.0 * momentum / (1.0 + momentum),
    )


def fourth_moment(distribution: Distribution, dimension: int | None = None) -> tuple[float, float]:
    """(a, b) with `(E[u u' A u u'])_ii = a A_ii + b Tr A` in the eigenbasis of H, equation (E7); exact.

    Gaussian (2, 1). Rademacher on a diagonal H (0, 1). Sphere of radius sqrt(d): (2k, k) with k = d / (d + 2).

    >>> fourth_moment("sphere", 2)
    (1.0, 0.5)
    """
    if distribution == "gaussian":
        return 2.0, 1.0
    if distribution == "rademacher_diagonal":
        return 0.0, 1.0
    if distribution == "sphere":
        if dimension is None or dimension < 1:
            raise UsageError(f"distribution='sphere' needs dimension=d >= 1, the number of weights; got {dimension!r}")
        k = dimension / (dimension + 2)
        return 2.0 * k, k
    raise UsageError(
        f"unknown distribution {distribution!r}; known: gaussian, sphere, rademacher_diagonal. For Rademacher "
        "directions on a Hessian that is not diagonal use 'gaussian', which bounds them from the safe side"
    )
