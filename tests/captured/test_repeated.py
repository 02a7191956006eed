"""What surrounds torch.cuda.graph, with a stand-in for it: the calls in their order, and errors by name. No GPU is needed."""

import contextlib

import pytest
import torch

pytest.importorskip("triton")

from zoft.captured.repeated import WARM, Repeated
from zoft.errors import UsageError


class Stream:
    def wait_stream(self, other) -> None:
        assert other is not self


class Graph:
    """Replays by calling what ran while it was captured."""

    def replay(self) -> None:
        calls.append("replay")


calls: list[str] = []


@pytest.fixture
def cuda(monkeypatch):
    """`torch.cuda` without a GPU; set `fails` to let the end of a capture raise, as CUDA does."""
    calls.clear()
    state = {"fails": False, "capturing": False}

    @contextlib.contextmanager
    def capture(graph, stream, capture_error_mode):
        assert isinstance(graph, Graph) and isinstance(stream, Stream) and capture_error_mode == "thread_local"
        calls.append("begin")
        state["capturing"] = True
        try:
            yield
        finally:
            state["capturing"] = False
            calls.append("end")
            if state["fails"]:
                raise RuntimeError("operation failed due to a previous error during capture")

    for name, stand_in in {
        "device": contextlib.nullcontext, "stream": contextlib.nullcontext, "Stream": Stream, "CUDAGraph": Graph,
        "current_stream": Stream, "synchronize": lambda: calls.append("wait"), "graph": capture,
        "is_current_stream_capturing": lambda: state["capturing"],
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, stand_in)
    return state


def test_warmed_then_captured_then_replayed(cuda) -> None:
    def work() -> None:
        calls.append("captured" if cuda["capturing"] else "warm")

    repeated = Repeated(work, torch.device("cuda"))
    repeated()
    repeated()
    assert calls == [*["warm"] * WARM, "wait", "begin", "captured", "end", "replay", "replay"]


@pytest.mark.parametrize("fails", [False, True])
def test_what_the_watch_finds_is_the_error(cuda, fails) -> None:
    """Also where CUDA then complains about the capture that was given up; nothing is watched before."""

    def work() -> None:
        torch.ones(()).item()

    cuda["fails"] = fails
    with pytest.raises(UsageError, match=r"_local_scalar_dense makes the host wait.*test_repeated.py:\d+"):
        Repeated(work, torch.device("cuda"))
    assert calls[-1] == "end"


def test_what_only_cuda_finds_names_the_operation(cuda) -> None:
    def work() -> None:
        torch.ones(2).mul(3.0)

    cuda["fails"] = True
    with pytest.raises(UsageError, match=r"previous error during capture \(the last operation begun was mul\)"):
        Repeated(work, torch.device("cuda"))


def test_a_fault_of_the_work_itself_is_not_disguised(cuda) -> None:
    def broken() -> None:
        if cuda["capturing"]:
            raise KeyError("labels")

    with pytest.raises(KeyError, match="labels"):
        Repeated(broken, torch.device("cuda"))
