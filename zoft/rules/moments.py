"""What rules with two moments ask of their settings and directions."""

from __future__ import annotations

from collections.abc import Sequence

from zoft.directions import Direction, Distribution
from zoft.errors import UsageError
from zoft.limits import check_positive, check_share


def check_moments(beta: float, beta2: float, delta: float) -> None:
    """Raises UsageError: a share of the past outside [0, 1), or nothing added to the root."""
    check_share("zo_momentum", beta)
    check_share("zo_beta2", beta2)
    check_positive("delta", delta)


def check_not_one_sign(name: str, same: str, directions: Sequence[Direction]) -> None:
    """Raises UsageError for one dense direction of signs, along which every element of g^2 is the same number."""
    first = directions[0]
    if (
        len(directions) == 1
        and first.distribution is Distribution.RADEMACHER
        and not first.form
        and first.block is None
    ):
        raise UsageError(
            f"zo_rule={name} keeps a second moment for every weight, and with zo_directions=1 and zo_distribution=rademacher "
            f"all of them are one number: take zo_rule={same}, which is the same step, or more directions"
        )
