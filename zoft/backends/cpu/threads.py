"""Compiled work on the threads that torch's own products run on.

torch keeps a team of OpenMP threads which, for some milliseconds after a product, spin for the next one. Threads of our own
would have to be woken beside them and to share their cores: a panel between two products took two to three times as long
(docs/performance.md). So the work is given to that same team, through the entry point which every OpenMP library of
Linux has, GOMP_parallel; where there is none, to threads of our own.
"""

from __future__ import annotations

import ctypes
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch

logger = logging.getLogger(__name__)
_STARTED = os.getpid()  # a fork inherits the team as memory but not its threads: it would wait for them for ever


@cache
def _team() -> Any:
    """`GOMP_parallel(function, data, threads, flags)` of the OpenMP library that torch is linked with; None: there is none."""
    try:
        parallel = ctypes.CDLL(torch._C.__file__).GOMP_parallel
    except (OSError, AttributeError) as error:
        logger.debug("the CPU backend starts threads of its own: %s", error)
        return None
    parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    parallel.restype = None
    return parallel


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Threads of this process (a fork inherits the object but not its threads, hence the second argument)."""
    return ThreadPoolExecutor(threads, thread_name_prefix="zoft-cpu")


def together(work: Any, data: int, threads: int) -> None:
    """`work(data)` on at most `threads` threads at once, of which this is one; all are done when this returns.

    Args:
        work: a C function of one pointer, as ctypes sees it, that takes its share from what the pointer leads to.
        data: that pointer.
    """
    if threads == 1:
        work(data)
        return
    parallel = _team() if os.getpid() == _STARTED else None
    if parallel is not None:
        parallel(ctypes.cast(work, ctypes.c_void_p), data, threads, 0)
        return
    others = [_pool(threads, os.getpid()).submit(work, data) for _ in range(threads - 1)]
    work(data)
    for other in others:
        other.result()
