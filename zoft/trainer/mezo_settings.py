"""Which zeroth-order settings `method=mezo` has, and which it cannot honour: those are refused, never ignored.

Imports neither torch nor Transformers, so that they are checked first.
"""

from collections.abc import Mapping
from typing import Any

from zoft.errors import UsageError

TAKEN = {"zo_eps", "zo_seed"}
# What MeZO is anyway: said, these are true; anything else could not be honoured.
FIXED: Mapping[str, Any] = {
    "zo_distribution": "gaussian",
    "zo_directions": 1,
    "zo_directions_schedule": "constant",
    "perturbation": "in_place",
    "weight_rounding": "nearest",
    "zo_trajectory": False,
    "zo_backend": "auto",
    "zo_estimator": "two_point",
    "zo_shape": "dense",
    "zo_blocks": 1,
    "zo_rule": "sgd",
    "stability": "off",
    "guard": "off",
}


def honoured(name: str, value: Any) -> bool:
    """Whether MeZO's procedure has this value of a zeroth-order setting.

    >>> honoured("zo_eps", 0.01), honoured("guard", "off"), honoured("guard", "skip")
    (True, True, False)
    """
    return name in TAKEN or (name in FIXED and value == FIXED[name])


def check_mezo_settings(given: Mapping[str, Any]) -> None:
    """UsageError for the first of the zeroth-order settings in `given` that MeZO's published procedure does not have."""
    for name, value in given.items():
        if honoured(name, value):
            continue
        way = f"set {name}={written(FIXED[name])}, or" if name in FIXED else f"leave {name} out, or"
        raise UsageError(
            f"{name}={written(value)} cannot be had with method=mezo, which is MeZO's own procedure as it was published "
            f"(Gaussian noise, in place, no monitor, no log); {way} use method=zo"
        )


def written(value: Any) -> str:
    """As on a command line."""
    return str(value).lower() if isinstance(value, bool) else str(value)
