"""Which storage half-precision weights get when the user leaves it to us (`weight_rounding=auto`)."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from zoft.backends import Rounding
from zoft.errors import UsageError

FREE_SHARE = 0.25  # of the memory that is free once the model is loaded: what the residual bits may take


def choose_rounding(
    weights: Iterable[torch.Tensor], wanted: str = "auto", *, perturbation: str = "read_only", free: int | None = None
) -> Rounding:
    """The rounding to use for these trainable weights.

    `auto`: no 16-bit weight -> nearest (it has no effect there). bfloat16, read-only -> the first of residual16 (2 more
    bytes a weight: float32 arithmetic) and residual8 (1 more byte) that takes at most a quarter of the free memory of
    the device. Otherwise (float16, in place, or no room) -> stochastic, which needs no memory and is unbiased. The
    measurements behind this stand in docs/experiments.md, "Numerics".

    Args:
        weights: the trainable parameters.
        wanted: `auto` or the name of a `Rounding`, which is returned as it is.
        perturbation: `read_only` or `in_place`; the latter cannot restore residual bits.
        free: bytes; None: asked from the device of the first weight.

    Raises:
        UsageError: no such rounding.

    >>> bf16 = torch.zeros(1000, dtype=torch.bfloat16)
    >>> [choose_rounding([bf16], free=n).value for n in (8000, 4000, 3999)]
    ['residual16', 'residual8', 'stochastic']
    """
    if wanted != "auto":
        if wanted not in list(Rounding):
            raise UsageError(f"weight_rounding {wanted!r} does not exist; there are: auto, {', '.join(Rounding)}")
        return Rounding(wanted)
    narrow = [w for w in weights if w.dtype in (torch.bfloat16, torch.float16)]
    if not narrow:
        return Rounding.NEAREST
    if perturbation != "read_only" or any(w.dtype is torch.float16 for w in narrow):
        return Rounding.STOCHASTIC
    count = sum(w.numel() for w in narrow)
    room = FREE_SHARE * (free_bytes(narrow[0].device) if free is None else free)
    for bytes_each, rounding in ((2, Rounding.RESIDUAL16), (1, Rounding.RESIDUAL8)):
        if bytes_each * count <= room:
            return rounding
    return Rounding.STOCHASTIC


def free_bytes(device: torch.device) -> int:
    """Memory of `device` that is not in use; 0 where it cannot be asked for.

    On CUDA also what torch took from the driver and has free itself: after a large tensor was let go, that is nearly all.
    """
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            found = next(line for line in lines if line.startswith("MemAvailable:"))
        return int(found.split()[1]) * 1024
    except (OSError, StopIteration, ValueError):
        return _free_by_psutil()


def _free_by_psutil() -> int:
    try:
        import psutil
    except ImportError:
        return 0
    return int(psutil.virtual_memory().available)
