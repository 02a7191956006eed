"""One function of tensors that stay in their places, run again and again: on a GPU as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable

import torch

from zoft.captured.watch import NoHost
from zoft.errors import UsageError

WARM = 2  # runs before a graph is captured


class Repeated:
    """`work`, captured; elsewhere than on a GPU it is called each time, which is the same function of the same tensors.

    It is run before, to compile kernels and make tables and scratch, then watched: it reads nothing of the host, and waits for
    nothing.

    Raises:
        UsageError: a graph cannot hold it; the message names the operation.
    """

    def __init__(self, work: Callable[[], None], device: torch.device) -> None:
        """
        Args:
            work: its results go into tensors that exist; while this is made they must be harmless.
            device: of all its tensors.
        """
        self._work, self._graph = work, None
        if device.type != "cuda":
            work()
            with NoHost():
                work()
            return
        self._graph = _captured(work, device)

    def __call__(self) -> None:
        """On the current stream; nothing is waited for."""
        self._work() if self._graph is None else self._graph.replay()


def _captured(work: Callable[[], None], device: torch.device) -> torch.cuda.CUDAGraph:
    with torch.cuda.device(device):
        aside, now = torch.cuda.Stream(), torch.cuda.current_stream()
        aside.wait_stream(now)
        with torch.cuda.stream(aside):
            for _ in range(WARM):
                work()
        now.wait_stream(aside)
        torch.cuda.synchronize()
        graph, watch = torch.cuda.CUDAGraph(), NoHost()
        refused: UsageError | None = None
        try:
            # The other threads of this process (those that pin batches) may go on.
            with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
                try:
                    with watch:
                        work()
                except UsageError as error:  # before anything forbidden happened: the capture itself ends as it should
                    refused = error
        except RuntimeError as error:
            if refused is None:
                refused = UsageError(
                    f"this step cannot be captured as a CUDA graph: {' '.join(str(error).split())[:300]} (the last operation "
                    f"begun was {watch.last}). The loss must not wait for the GPU; or take ordinary steps"
                )
            raise refused from error
        if refused is not None:
            raise refused
        return graph
