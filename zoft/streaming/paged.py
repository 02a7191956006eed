"""On a CPU: weights are read where they lie, in the pages of the store's file, of which few are resident.

The pages of a block are asked for while the block before it runs, and let go behind it; a write goes into them, and from there
into the file. They can be let go at any time, since whoever reads them again gets them from the file. So code that reads
weights outside the blocks' forwards (a fingerprint, a checkpoint) needs no care: a watch lets pages go when they have become
more than are allowed.
"""

from __future__ import annotations

import os
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import torch

from zoft.streaming.store import DO_NOT_NEED, PAGE, WILL_NEED, Area, advise, stored_area

EVERY = 0.02  # seconds between looks at the resident pages


class Paged:
    """Brings blocks in and lets them go by advice to the kernel."""

    device = torch.device("cpu")

    def __init__(self, allowed: int) -> None:
        """
        Args:
            allowed: bytes of pages that may be resident while no block runs.
        """
        self._areas: dict[int, list[Area]] = {}  # by number of the block
        self._kept: list[torch.Tensor] = []  # so that no area's addresses are ever another's memory
        self._running: set[int] = set()
        self._ahead = ThreadPoolExecutor(1, "zoft-ahead")
        watch = threading.Thread(target=_watch, args=(weakref.ref(self), allowed), name="zoft-pages", daemon=True)
        watch.start()

    def add(self, number: int, tensor: torch.Tensor) -> None:
        """`tensor`, made by a store, belongs to a block."""
        self._kept.append(tensor.data)
        self._areas.setdefault(number, []).append(stored_area(tensor))

    def enter(self, number: int, following: int | None) -> None:
        """The block is about to run, or to be written; another one follows."""
        self._running.add(number)
        if following is not None:
            self._ahead.submit(advise, self._areas[following], WILL_NEED)

    def leave(self, number: int, changed: bool) -> None:
        """The block has run."""
        self._running.discard(number)
        advise(self._areas[number], DO_NOT_NEED)

    def settle(self) -> None:
        """Nothing to wait for: what is written is in the pages."""

    def release(self) -> None:
        """Let all pages go of blocks that do not run."""
        for number, areas in list(self._areas.items()):
            if number not in self._running:
                advise(list(areas), DO_NOT_NEED)


def _watch(paged: weakref.ref[Paged], allowed: int) -> None:
    base = _file_pages()
    wait = threading.Event()
    while (watched := paged()) is not None:
        if _file_pages() - base > allowed:
            watched.release()
            base = _file_pages()  # libraries have pages of files, too
        del watched
        wait.wait(EVERY)


def _file_pages() -> int:
    """Bytes of files and shared memory that are resident in this process; 0 where nobody counts."""
    try:
        with open(f"/proc/{os.getpid()}/statm", encoding="ascii") as line:
            return int(line.read().split()[2]) * PAGE
    except OSError:
        return 0
