"""Memory that was freed stays with the process, for the next pass.

glibc hands the end of its heap back to the system whenever enough of it is free, and takes memory that a tensor had from the
system for each tensor anew until one as large was freed. A forward pass frees all its activations, so the next one may begin by
having all of them mapped and cleared again, page by page: 6 % of a step of OPT-125M (docs/performance.md).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping

LARGEST = 32 << 20  # bytes of a block that the heap serves: the most that glibc takes
KEPT = 1 << 30  # bytes free at the end of the heap, from which on it is handed back
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # of mallopt
_OWN = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_")


def keep_freed_memory(environ: Mapping[str, str] = os.environ) -> bool:
    """Asks the C library to keep up to 1 GiB of freed memory for this process; whether it does.

    zoft's commands ask for it when they start; call it in a program of your own, before the model is loaded. What is set in
    the environment (MALLOC_…_, GLIBC_TUNABLES) is left as it is, and other C libraries than glibc are left alone.
    """
    if any(name in environ for name in _OWN) or "glibc.malloc" in environ.get("GLIBC_TUNABLES", ""):
        return False
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  # others have a mallopt as well, with other options
        return bool(library.mallopt(_MMAP_THRESHOLD, LARGEST) and library.mallopt(_TRIM_THRESHOLD, KEPT))
    except (OSError, AttributeError, TypeError):  # no such function, or (Windows) no way to ask for it
        return False
