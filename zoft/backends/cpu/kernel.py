"""The compiled entry points of the CPU backend, one for each kind of work, each compiled when it is first needed.

    signs   Rademacher terms on wide float32                      (`signs.py`)
    bfloat  the same on bfloat16, one term a move                 (`bfloat.py`)
    normals one normal term a move on wide float32 and bfloat16   (`normals.py`)
    wide    everything else on wide parameters                    (`tiles.py`)
    narrow  parameters with few columns                           (`narrow.py`)
    double  float64                                               (`narrow.py`)

Most runs need two or three of the six.
"""

from __future__ import annotations

import hashlib
import logging
import time
from functools import cache
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)
SIGNATURE = "void(int64[:,::1],int64[:,::1],int64[:,::1],int64[:,::1],float64[::1],float64[::1],int64[::1],int64,int64)"


@cache
def entry(name: str) -> Any:
    """The compiled `name(targets, items, moves, terms, scales, decays, scratch, first, last)`.

    Compiling takes some seconds, once a machine: numba keeps the result beside these sources or, where that is read-only, in
    the user's cache folder (or in NUMBA_CACHE_DIR). It does so by the file and the closure of this one function, not by what
    it calls: a digest of all the sources in this folder is part of the closure, so that an edited callee is never served from
    an old cache.
    """
    from numba import njit

    from zoft.backends.cpu.plan import ITEM

    item_of = _work(name)
    digest = _digest()

    def sweep(targets, items, moves, terms, scales, decays, scratch, first, last):  # type: ignore[no-untyped-def]
        _ = digest
        for index in range(first, last):
            item = items[index]
            item_of(moves, terms, scales, decays, targets[item[ITEM.target]], item, scratch)

    start = time.perf_counter()
    compiled = njit(SIGNATURE, cache=True, nogil=True)(sweep)
    seconds = time.perf_counter() - start
    if not sum(compiled.stats.cache_hits.values()):
        logger.info("compiled the CPU kernel %r in %.1f s; the next run on this machine loads it", name, seconds)
    return compiled


def _work(name: str) -> Any:
    if name == "signs":
        from zoft.backends.cpu.signs import single_signs

        return single_signs
    if name == "bfloat":
        from zoft.backends.cpu.bfloat import bfloat_signs

        return bfloat_signs
    if name == "normals":
        from zoft.backends.cpu.normals import normals

        return normals
    if name == "wide":
        from zoft.backends.cpu.tiles import wide

        return wide
    from zoft.backends.cpu import narrow

    return {"narrow": narrow.narrow, "double": narrow.double}[name]


@cache
def _digest() -> str:
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
