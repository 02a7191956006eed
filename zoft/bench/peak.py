"""Peak resident memory of a piece of work, on Linux and on CUDA."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable

import torch

RESET = "/proc/self/clear_refs"


def peak_bytes(work: Callable[[], object], device: torch.device | str = "cpu") -> int | None:
    """How far resident memory (or the allocator, on CUDA) rises above where it stood; None where nobody counts.

    Freed memory that the C library kept is given back first, so that work cannot hide in it.
    """
    where = torch.device(device)
    if where.type == "cuda":
        torch.cuda.synchronize(where)
        torch.cuda.reset_peak_memory_stats(where)
        before = torch.cuda.memory_allocated(where)
        work()
        torch.cuda.synchronize(where)
        return torch.cuda.max_memory_allocated(where) - before
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        with open(RESET, "w", encoding="ascii") as file:
            file.write("5")  # the high-water mark falls to what is resident now
        before = resident("VmRSS")
        work()
        return resident("VmHWM") - before
    except (OSError, AttributeError):
        return None


def resident(field: str) -> int:
    """A line of /proc/self/status, in bytes: VmRSS is resident now, VmHWM the most that was."""
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024
