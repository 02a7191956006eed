"""On a GPU: a block's weights are copied into one of two buffers while it runs, and back when they were written.

Copies up and copies down have a CUDA stream each, so that both run beside the computation; events order them. From pinned
memory (the machine's) they are asynchronous. Pages of a file on a disk cannot be pinned: there a thread waits for each copy.
The weight's `data` is the view of the buffer while the block runs, and the store's tensor otherwise.

Without CUDA streams (on a CPU, in tests) the same code copies at once.
"""

from __future__ import annotations

import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from zoft.errors import UsageError
from zoft.limits import human_bytes
from zoft.streaming.store import stored_area

ALIGNMENT = 256  # bytes


class Copied:
    """Two buffers on the device, each for one block."""

    def __init__(self, device: torch.device, pinned: bool) -> None:
        """
        Args:
            device: where blocks run.
            pinned: whether the store's memory is to be locked, for asynchronous copies.
        """
        self.device = device
        self._pinned = pinned and device.type == "cuda"
        self._tensors: dict[int, list[torch.Tensor]] = {}  # by number of the block: as the model holds them
        self._homes: dict[int, list[torch.Tensor]] = {}  # the same in the store
        self._buffers: list[torch.Tensor | None] = [None, None]
        self._cut: dict[tuple[int, int], list[torch.Tensor]] = {}  # (block, buffer) -> its views of the buffer
        self._coming: dict[int, tuple[int, Future[None]]] = {}  # block -> its buffer, and its copy up
        self._here: dict[int, int] = {}  # block -> its buffer, while it runs
        self._first = 0
        self._work = ThreadPoolExecutor(1, "zoft-copies")
        self._copies: list[Future[None]] = []  # down
        self._up = self._down = None
        self._free: list[Any] = [None, None]  # events: nobody uses the buffer any more
        self._arrived: list[Any] = [None, None]  # events: the copy into the buffer is complete
        if device.type == "cuda":
            self._up, self._down = torch.cuda.Stream(device), torch.cuda.Stream(device)

    def add(self, number: int, tensor: torch.Tensor) -> None:
        """`tensor`, made by a store, belongs to a block."""
        self.settle()
        if self._up is not None:
            torch.cuda.synchronize(self.device)  # nobody reads the buffers, which are made anew
        home = tensor.data
        if self._pinned:
            self._pin(home)
        self._tensors.setdefault(number, []).append(tensor)
        self._first = min(self._tensors)
        self._homes.setdefault(number, []).append(home)
        self._buffers, self._cut = [None, None], {}

    def enter(self, number: int, following: int | None) -> None:
        """Show the block on the device; another one follows."""
        if number == self._first:  # a pass begins: weights may have been written since the last one
            self.settle()
        if number not in self._coming:
            self._send(number)
        buffer, copy = self._coming.pop(number)
        copy.result()
        self._here[number] = buffer
        if self._up is not None:
            torch.cuda.current_stream(self.device).wait_event(self._arrived[buffer])
        for tensor, view in zip(self._tensors[number], self._views(number, buffer), strict=True):
            tensor.data = view
        if following is not None and following not in self._coming and len(self._here) < 2:
            self._send(following)

    def leave(self, number: int, changed: bool) -> None:
        """Back to the store; with `changed`, what was written is copied there."""
        buffer = self._here.pop(number, None)
        if buffer is None:  # it could not be brought in
            return
        views = self._views(number, buffer)
        homes = self._homes[number]
        for tensor, home in zip(self._tensors[number], homes, strict=True):
            tensor.data = home
        done = self._event(torch.cuda.current_stream(self.device)) if self._up is not None else None
        if changed:
            self._copies.append(self._work.submit(self._copy_down, views, homes, buffer, done))
        else:
            self._free[buffer] = done

    def settle(self) -> None:
        """All blocks are back in the store with all that was written, and none is on its way: its bytes may change now.

        An interrupt (Ctrl-C) cuts a pass short without running the modules' hooks: the block that ran goes back here, with what
        may have been written into it since.
        """
        for number in list(self._here):
            self.leave(number, changed=True)
        for copy in (*self._copies, *(copy for _, copy in self._coming.values())):
            copy.result()
        self._copies, self._coming = [], {}
        if self._down is not None:
            self._down.synchronize()

    def _send(self, number: int) -> None:
        taken = {*self._here.values(), *(buffer for buffer, _ in self._coming.values())}
        buffer = next((i for i in (0, 1) if i not in taken), None)
        if buffer is None:  # another block came than was expected
            for other, (_, copy) in self._coming.items():
                copy.result()
                buffer = self._coming.pop(other)[0]
                break
        if buffer is None:
            raise UsageError("streamed blocks run inside one another; leave memory_budget out")
        self._coming[number] = (buffer, self._work.submit(self._copy_up, number, buffer))

    def _copy_up(self, number: int, buffer: int) -> None:
        with self._on(self._up):
            if self._up is not None and self._free[buffer] is not None:
                self._up.wait_event(self._free[buffer])
            with torch.no_grad():
                for home, view in zip(self._homes[number], self._views(number, buffer), strict=True):
                    view.copy_(home, non_blocking=self._pinned)
            if self._up is not None:
                self._arrived[buffer] = self._event(self._up)

    def _copy_down(self, views: list[torch.Tensor], homes: list[torch.Tensor], buffer: int, done: Any) -> None:
        with self._on(self._down):
            if self._down is not None:
                self._down.wait_event(done)
            with torch.no_grad():
                for view, home in zip(views, homes, strict=True):
                    home.copy_(view, non_blocking=self._pinned)
            if self._down is not None:
                self._free[buffer] = self._event(self._down)

    def _views(self, number: int, buffer: int) -> list[torch.Tensor]:
        """The buffer, cut like the block's tensors."""
        if (number, buffer) in self._cut:
            return self._cut[number, buffer]
        if self._buffers[buffer] is None:
            most = max(sum(_room(home) for home in homes) for homes in self._homes.values())
            self._buffers[buffer] = torch.empty(most, dtype=torch.uint8, device=self.device)
        memory, at, views = self._buffers[buffer], 0, []
        assert memory is not None
        for home in self._homes[number]:
            views.append(memory[at : at + home.nbytes].view(home.dtype).view(home.shape))
            at += _room(home)
        self._cut[number, buffer] = views
        return views

    def _on(self, stream: Any) -> AbstractContextManager[Any]:
        return nullcontext() if stream is None else torch.cuda.stream(stream)

    @staticmethod
    def _event(stream: Any) -> Any:
        event = torch.cuda.Event()
        event.record(stream)
        return event

    def _pin(self, home: torch.Tensor) -> None:
        start, size = stored_area(home)
        runtime: Any = torch.cuda.cudart()
        code = int(runtime.cudaHostRegister(start, size, 0))
        if code:
            raise UsageError(
                f"stream_to=memory: {human_bytes(size, 2)} cannot be pinned (CUDA error {code}); raise the limit of "
                "locked memory (ulimit -l), or use stream_to=disk"
            )
        weakref.finalize(home.untyped_storage(), runtime.cudaHostUnregister, start).atexit = False


def _room(tensor: torch.Tensor) -> int:
    return -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
