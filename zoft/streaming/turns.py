"""Several losses in turns: a block that was brought in runs for all of them before the next one is.

Each loss is computed in a thread of its own, of which one runs at a time. Before a streamed block it waits until the others
are there, too, or have ended; then the block is brought in once and they run it one after another. Nothing is assumed of the
losses: where their paths part (an answer that ends earlier), a block is brought in for those that want it.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from typing import Generic, TypeVar

import torch

from zoft.products import wide_products_elsewhere

T = TypeVar("T")
Resume = Callable[[], None]


class _Cancelled(BaseException):
    """Another loss failed."""


class _Runner:
    """One loss, and where it waits."""

    def __init__(self, back: threading.Semaphore, suspend: Callable[[], Resume]) -> None:
        self.go, self._back, self._suspend = threading.Semaphore(0), back, suspend
        self.at = -1  # number of the block that it waits for
        self.done = self.failed = self.cancelled = False

    def turn(self) -> None:
        """Let it run up to its next block, or its end."""
        self.go.release()
        self._back.acquire()

    def pause(self, number: int) -> None:
        """In its own thread: wait for a block. What the others must not find is put away meanwhile."""
        self.at = number
        resume = self._suspend()
        self._back.release()
        self.go.acquire()
        if self.cancelled:
            raise _Cancelled
        resume()


class Turns(Generic[T]):
    """Runs losses in turns."""

    def __init__(self, enter: Callable[[int], None], leave: Callable[[int], None]) -> None:
        """
        Args:
            enter, leave: bring a block in, and let it go.
        """
        self._enter, self._leave = enter, leave
        self._threads = ThreadPoolExecutor(1 << 12, "zoft-turns")  # as many as losses; they are kept
        self._mine = threading.local()

    @property
    def running(self) -> _Runner | None:
        """The runner whose thread this is."""
        return getattr(self._mine, "runner", None)

    def run(self, losses: Sequence[Callable[[], T]], suspend: Callable[[], Resume]) -> list[T]:
        """What each of `losses` returns, in order.

        Args:
            suspend: called where a loss waits; puts away its state, and returns what brings it back.

        Raises:
            Whatever the first one that failed raised; the others are given up.
        """
        back = threading.Semaphore(0)
        runners = [_Runner(back, suspend) for _ in losses]
        around = _surroundings()
        results: list[Future[T]] = [
            self._threads.submit(contextvars.copy_context().run, self._alone, runner, loss, around, back)
            for runner, loss in zip(runners, losses, strict=True)
        ]
        try:
            self._take_turns(runners)
        finally:
            for runner in runners:
                if not runner.done:
                    runner.cancelled = True
                    runner.turn()
            wait(results)
        errors = [result.exception() for result in results]
        for error in errors:
            if error is not None and not isinstance(error, _Cancelled):
                raise error
        return [result.result() for result in results]

    def _take_turns(self, runners: Sequence[_Runner]) -> None:
        for runner in runners:
            runner.turn()
            if runner.failed:
                return
        here = -1
        while wanted := {runner.at for runner in runners if not runner.done}:
            here = min((number for number in wanted if number > here), default=min(wanted))
            self._enter(here)
            try:
                for runner in [runner for runner in runners if not runner.done and runner.at == here]:
                    runner.turn()
                    if runner.failed:
                        return
            finally:
                self._leave(here)

    def _alone(
        self, runner: _Runner, loss: Callable[[], T], around: Callable[[], ExitStack], back: threading.Semaphore
    ) -> T:
        runner.go.acquire()
        self._mine.runner = runner
        try:
            if runner.cancelled:
                raise _Cancelled
            with around():
                return loss()
        except BaseException:
            runner.failed = True
            raise
        finally:
            self._mine.runner = None
            runner.done = True
            back.release()


def _surroundings() -> Callable[[], ExitStack]:
    """Of torch's settings, those that hold for one thread alone: as they are in this one, for another."""
    threads, grad, inference = torch.get_num_threads(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    casts = [
        (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
        for kind in ("cpu", *(("cuda",) if torch.cuda.is_available() else ()))
    ]
    products = wide_products_elsewhere()
    stream = torch.cuda.current_stream() if torch.cuda.is_available() and torch.cuda.is_initialized() else None

    def enter() -> ExitStack:
        stack = ExitStack()
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        stack.enter_context(torch.inference_mode(inference))
        stack.enter_context(torch.set_grad_enabled(grad))
        stack.enter_context(products())
        for kind, dtype, enabled in casts:
            if enabled:
                stack.enter_context(torch.autocast(kind, dtype=dtype))
        if stream is not None:
            stack.enter_context(torch.cuda.stream(stream))
        return stack

    return enter
