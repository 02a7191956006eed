"""The settings of streaming. Imports no torch, so that they are checked first."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoft.errors import UsageError
from zoft.limits import Excluded, check_excluded, size_in_bytes


def check_streaming(memory_budget: str | None, stream_to: str) -> None:
    """UsageError for a budget that is no size, and for a place that is neither a word nor a folder."""
    if memory_budget is None:
        if stream_to != "auto":
            raise UsageError(f"stream_to={stream_to} says where blocks live that do not fit; set memory_budget with it")
        return
    if not size_in_bytes("memory_budget", memory_budget):
        raise UsageError(f"memory_budget must be more than nothing, but {memory_budget!r} was given")
    if stream_to not in ("auto", "memory", "disk") and not Path(stream_to).expanduser().is_dir():
        raise UsageError(f"stream_to must be auto, memory, disk or a folder that exists, but {stream_to!r} was given")


EXCLUDED: Excluded = {
    "method": (("mezo", "adamw", "lora-adamw"), "it writes or differentiates all weights at once; use method=zo"),
    "perturbation": (("in_place",), "each sweep over the weights would fetch and write all blocks; use read_only"),
    "zo_panels": (("lockstep",), "it reads whole weights where they are, and blocks come and go; use jit"),
    "zo_distribution": (("sphere",), "the length of z is that over all blocks at once; use gaussian"),
    "zo_rule": (("hizoo",), "its curvatures were never tried with it; use another rule"),
    "quantization": (("nf4", "fp4", "int8"), "quantised weights cannot be moved as they are; use quantization=none"),
    "guard": (("rewind",), "it keeps copies of all weights in memory; use guard=skip"),
    "torch_compile": ((True,), "a compiled graph keeps the weights' addresses; set it to false"),
}


def check_streamed_run(settings: Mapping[str, Any]) -> None:
    """UsageError for the first of a run's settings, by name, that cannot be had while blocks are streamed."""
    check_excluded(settings, EXCLUDED, "memory_budget", otherwise=", or no memory_budget")
    if settings.get("zo_merge_every", 1) > 1:
        raise UsageError(
            f"zo_merge_every={settings['zo_merge_every']} cannot be had with memory_budget: factors lie beside weights that "
            "stay where they are; leave it out"
        )
