"""Closed forms of the stability of zeroth-order training: plain arithmetic, no torch. Equations: docs/math.md.

`mean_square` thresholds from a whole spectrum · `edges` from the trace and little else · `descent` what one step
costs and buys · `probing` how well losses alone measure curvature · `dynamics` the settings all of them share.
"""

from zoft.stability.theory.descent import (
    best_step,
    descent_edge,
    drift,
    expected_change,
    noise_paid,
    signal_fraction,
)
from zoft.stability.theory.dynamics import Distribution, Dynamics, Terms, fourth_moment, terms
from zoft.stability.theory.edges import (
    Level,
    always_safe_edge,
    band,
    edge_ratio,
    effective_rank,
    frobenius_squared,
    lambda_max_bracket,
    level,
    loss_only_band,
    right_edge,
)
from zoft.stability.theory.mean_square import (
    adam_critical_lr,
    critical_lr,
    first_order_critical_lr,
    is_stable,
    scalar_adam_scale,
)
from zoft.stability.theory.probing import (
    noise_floor,
    probe_radius,
    reachability,
    relative_standard_error,
    smoothing_bias,
)

__all__ = [
    "Distribution",
    "Dynamics",
    "Level",
    "Terms",
    "adam_critical_lr",
    "always_safe_edge",
    "band",
    "best_step",
    "critical_lr",
    "descent_edge",
    "drift",
    "edge_ratio",
    "effective_rank",
    "expected_change",
    "first_order_critical_lr",
    "fourth_moment",
    "frobenius_squared",
    "is_stable",
    "lambda_max_bracket",
    "level",
    "loss_only_band",
    "noise_floor",
    "noise_paid",
    "probe_radius",
    "reachability",
    "relative_standard_error",
    "right_edge",
    "scalar_adam_scale",
    "signal_fraction",
    "smoothing_bias",
    "terms",
]
