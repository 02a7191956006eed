"""What cannot be had of a model whose weights are cut among processes, said before it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zoft.errors import UsageError
from zoft.limits import Excluded, check_excluded

EXCLUDED: Excluded = {
    "zo_panels": (("lockstep",), "it reads whole weights, and each process holds parts; use jit"),
    "perturbation": (("in_place",), "each process would restore its parts only; use read_only"),
    "zo_distribution": (("sphere",), "the length of z is that over all parts; use gaussian"),
    "zo_rule": (("hizoo",), "it keeps its curvatures whole; use another rule"),
    "zo_shape": (("small_weights",), "the smallest weights are those of whole matrices; use another shape"),
    "guard": (("rewind",), "it keeps copies of all weights; use guard=skip or off"),
}


def check_sharded_run(settings: Mapping[str, Any]) -> None:
    """UsageError for the first of a run's settings, by name, that fsdp_size or tp_size rules out."""
    check_excluded(settings, EXCLUDED, "fsdp_size or tp_size")
    if settings.get("zo_direction_groups", 1) > 1:
        raise UsageError(
            f"zo_direction_groups={settings['zo_direction_groups']} cannot be had with fsdp_size or tp_size: all processes "
            "gather a weight at once, for the same points; leave it out"
        )
    if settings.get("zo_merge_every", 1) > 1:
        raise UsageError(
            f"zo_merge_every={settings['zo_merge_every']} cannot be had with fsdp_size or tp_size: factors of whole weights "
            "would lie beside parts; leave it out"
        )
