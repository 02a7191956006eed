"""Memory outside the device: tensors whose bytes lie in one file, on a disk or in the machine's memory.

The file has no name from the moment it is made: nothing is left of it when the process ends, however it ends. Its room is taken
when it is asked for, so a disk that is full is known before training starts, and no later write can fail for want of room.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from zoft.errors import UsageError
from zoft.limits import human_bytes
from zoft.storage import free_bytes

PAGE = mmap.PAGESIZE
WILL_NEED, DO_NOT_NEED, PAGE_OUT = 3, 4, 21  # advice of madvise(2)


class Area(NamedTuple):
    """Whole pages of memory."""

    start: int
    size: int


class Store:
    """Tensors in one nameless file; each begins on a page of its own."""

    def __init__(self, where: Path | None) -> None:
        """
        Args:
            where: folder on the disk that is to hold them; None: the machine's memory.

        Raises:
            UsageError: nothing can be written there.
        """
        self.where = where
        self.nbytes = 0  # of the file
        self._pages: mmap.mmap | None = None  # what was reserved last
        self._used = 0  # bytes of it
        try:
            self._file = os.memfd_create("zoft") if where is None else _nameless(where)
        except OSError as error:
            raise UsageError(
                f"stream_to: weights cannot be kept in {where or 'memory'}: {error.strerror}; name a folder"
            ) from error

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    def reserve(self, sizes: Iterable[int]) -> None:
        """Take the room of tensors of so many bytes each, now.

        Raises:
            UsageError: there is not enough; the message says how much is wanted and free.
        """
        wanted = sum(map(_whole_pages, sizes))
        if not wanted:
            return
        free = _free(self.where)
        reason = f"{human_bytes(free, 2)} are free" if wanted > free else None
        try:
            if reason is None:
                os.posix_fallocate(self._file, self.nbytes, wanted)
        except OSError as error:
            reason = f"the system says: {error.strerror}"
        if reason is not None:
            place = "the machine's memory" if self.where is None else str(self.where)
            raise UsageError(
                f"stream_to: {human_bytes(wanted, 2)} of weights are to lie in {place}, but {reason}; make room, name another "
                "folder (stream_to=FOLDER), or raise memory_budget"
            )
        self._pages = mmap.mmap(self._file, wanted, mmap.MAP_SHARED, offset=self.nbytes)
        self._used = 0
        self.nbytes += wanted

    def zeros(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """A contiguous tensor of zeros, in what was reserved where it fits.

        Raises:
            UsageError: no room is left.
        """
        count = math.prod(shape)
        size = _whole_pages(count * dtype.itemsize)
        if not size:
            return torch.zeros(tuple(shape), dtype=dtype)
        if self._pages is None or self._used + size > len(self._pages):
            self.reserve([size])
        made = torch.frombuffer(self._pages, dtype=dtype, count=count, offset=self._used)  # which keeps the mapping
        self._used += size
        return made.view(tuple(shape))


def stored_area(tensor: torch.Tensor) -> Area:
    """The pages of a tensor that a store made."""
    return Area(tensor.data_ptr(), _whole_pages(tensor.nbytes))


def inner_area(tensor: torch.Tensor) -> Area:
    """The whole pages inside any contiguous tensor's memory."""
    start = _whole_pages(tensor.data_ptr())
    return Area(start, max(0, (tensor.data_ptr() + tensor.nbytes - start) // PAGE * PAGE))


def advise(areas: Iterable[Area], advice: int) -> None:
    """Tell the kernel which pages are wanted soon, or not. It may refuse: then memory is used as if it had not been told.

    DO_NOT_NEED is for the pages of a store only, which are read from its file again; private memory would be lost.
    """
    for start, size in areas:
        if size:
            _C.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), advice)


_C = ctypes.CDLL(None)


def _whole_pages(size: int) -> int:
    return -(-size // PAGE) * PAGE


def _nameless(folder: Path) -> int:
    handle, name = tempfile.mkstemp(prefix=".zoft-streamed-", dir=folder)
    os.unlink(name)
    return handle


def _free(where: Path | None) -> int:
    if where is None:
        return free_bytes(torch.device("cpu"))
    found = os.statvfs(where)
    return found.f_bavail * found.f_frsize
