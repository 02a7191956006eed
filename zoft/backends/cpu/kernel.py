"""The compiled entry points of the CPU backend, one for each kind of work, each compiled when it is first needed.

    signs   Rademacher terms on wide float32                      (`signs.py`)
    bfloat  the same on bfloat16, one term a move                 (`bfloat.py`)
    normals one normal term a move on wide float32 and bfloat16   (`normals.py`)
    thin    one term of two columns' product, in place, on the same (`thin.py`)
    wide    everything else on wide parameters                    (`tiles.py`)
    narrow  parameters with few columns                           (`narrow.py`)
    double  float64                                               (`narrow.py`)

Most runs need two or three of the seven. `compiled` serves other work, whose jobs are its own (`beside.py`).
"""

from __future__ import annotations

import hashlib
import logging
import time
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np

from zoft.backends.cpu.plan import ITEM, JOB, MOVE, SCRATCH, TARGET, TERM

logger = logging.getLogger(__name__)
SIGNATURE = "void(voidptr)"
FIELDS, TARGETS, ITEMS, MOVES, TERMS, SCRATCHES = map(len, (JOB, TARGET, ITEM, MOVE, TERM, SCRATCH))
fetch_add: Any = None  # these three are others in the copy of the function that is compiled
pointer: Any = None
item_of: Any = None


@cache
def entry(name: str) -> Any:
    """The compiled work `name`, as a C function of the address of a job (`plan.JOB`); many threads may call it with one job.

    Compiling takes some seconds, once a machine: numba keeps the result beside these sources or, where that is read-only, in
    the user's cache folder (or in NUMBA_CACHE_DIR). It does so by the file and the closure of this one function, not by what
    it calls: the name and a digest of all the sources in this folder are the closure, so that an edited callee is never served
    from an old cache. Compiled functions are no part of it, but globals of a copy of the function: numba pickles the closure,
    and a compiled function anew in every process, so that nothing kept would ever be found again.
    """
    from numba import carray  # pyright: ignore[reportPrivateImportUsage]

    from zoft.backends.cpu import memory

    identity = f"{name} {digest()}"

    def share(data):  # type: ignore[no-untyped-def]
        _ = identity
        job = carray(data, (FIELDS,), np.int64)
        targets = carray(pointer(job[JOB.targets]), (job[JOB.target_count], TARGETS), np.int64)
        items = carray(pointer(job[JOB.items]), (job[JOB.item_count], ITEMS), np.int64)
        moves = carray(pointer(job[JOB.moves]), (job[JOB.move_count], MOVES), np.int64)
        terms = carray(pointer(job[JOB.terms]), (job[JOB.term_count], TERMS), np.int64)
        scales = carray(pointer(job[JOB.scales]), (job[JOB.term_count],), np.float64)
        decays = carray(pointer(job[JOB.decays]), (job[JOB.move_count],), np.float64)
        thread = fetch_add(job[JOB.next_thread], 1)
        scratch = carray(pointer(job[JOB.scratch] + 8 * SCRATCHES * thread), (SCRATCHES,), np.int64)
        index = fetch_add(job[JOB.next_item], 1)
        while index < len(items):
            item = items[index]
            item_of(moves, terms, scales, decays, targets[item[ITEM.target]], item, scratch)
            index = fetch_add(job[JOB.next_item], 1)

    names = {"fetch_add": memory.fetch_add, "pointer": memory.pointer, "item_of": _work(name)}
    work = FunctionType(share.__code__, {**globals(), **names}, share.__name__, None, share.__closure__)
    work.__qualname__ = share.__qualname__
    return compiled(name, work)


def compiled(name: str, work: Any) -> Any:
    """`work`, as a C function of one address; its closure is what numba's cache goes by, and must hold `digest()`."""
    from numba import cfunc  # pyright: ignore[reportPrivateImportUsage]

    start = time.perf_counter()
    made = cfunc(SIGNATURE, cache=True)(work)
    seconds = time.perf_counter() - start
    if not made.cache_hits:
        logger.info("compiled the CPU kernel %r in %.1f s; the next run on this machine loads it", name, seconds)
    return made.ctypes


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
    if name == "thin":
        from zoft.backends.cpu.thin import single_product

        return single_product
    if name == "wide":
        from zoft.backends.cpu.tiles import wide

        return wide
    from zoft.backends.cpu import narrow

    return {"narrow": narrow.narrow, "double": narrow.double}[name]


@cache
def digest() -> str:
    """Of the sources in this folder."""
    found = hashlib.blake2b(digest_size=16)
    for path in sorted(Path(__file__).parent.glob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()
