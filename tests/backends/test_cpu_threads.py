"""The CPU backend's work is shared by torch's own threads, or by threads of its own, to the same bits."""

import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Sequence

import pytest
import torch

from zoft.backends import Move, Rounding, Target, Term, backend
from zoft.backends.cpu import threads
from zoft.directions import Direction, Window

SHAPE = (1000, 515)
Z, NEXT = Direction(3, 1), Direction(3, 2)
STEP = [
    Move((Term(Z, 2.0**-10),), to_nearest=True),
    Move((Term(Z, -3e-4),), rounding_key=(3, 1)),
    Move((Term(NEXT, 2.0**-10),), to_nearest=True),
]


def start() -> torch.Tensor:
    return (torch.linspace(-1, 1, SHAPE[0] * SHAPE[1]).reshape(SHAPE) * 0.05).to(torch.bfloat16)


def write(weight: torch.Tensor, name: str, moves: Sequence[Move] = STEP, first_row: int = 0) -> None:
    window = Window(7, first_row, SHAPE[0], 0, SHAPE[1], SHAPE[1])
    backend(name).sweep_([Target(weight, window)], moves, Rounding.STOCHASTIC)


def moved(name: str, moves: Sequence[Move] = STEP, first_row: int = 0) -> torch.Tensor:
    write(weight := start(), name, moves, first_row)
    return weight


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_every_thread_takes_a_share_and_each_item_is_done_once(two_threads, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = threads.together
    monkeypatch.setattr("zoft.backends.cpu.backend.together", lambda *a: (seen.append(a[2]), real(*a)))
    assert torch.equal(moved("cpu"), moved("reference")) and seen == [2]


def test_threads_of_its_own_where_torch_has_none_to_share(two_threads, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = moved("cpu")
    monkeypatch.setattr(threads, "_team", lambda: None)
    assert torch.equal(moved("cpu"), expected)
    assert any(thread.name.startswith("zoft-cpu") for thread in threading.enumerate())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_process_starts_its_own(two_threads) -> None:
    """It has inherited torch's team as memory, without its threads: to wait for them would take for ever."""
    expected, context = moved("cpu"), multiprocessing.get_context("fork")
    weight = start()
    torch.ones(1 << 20).sum()  # torch's team has been at work
    queue = context.SimpleQueue()

    def child() -> None:  # nothing of torch's that runs on several threads: that would wait for ever
        write(weight, "cpu")
        queue.put(weight.view(torch.int16).numpy().tobytes())

    process = context.Process(target=child)
    process.start()
    reader = threading.Thread(target=lambda: results.append(queue.get()), daemon=True)
    results: list[bytes] = []
    reader.start()
    reader.join(60)
    process.kill()
    assert results == [expected.view(torch.int16).numpy().tobytes()]


def test_callers_on_several_threads_at_once(two_threads) -> None:
    expected, results = moved("reference"), []
    callers = [threading.Thread(target=lambda: results.append(moved("cpu"))) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(results) == 4 and all(torch.equal(result, expected) for result in results)


@pytest.mark.parametrize("first_row", [3, 126, 128])
@pytest.mark.parametrize("update", [Z, NEXT], ids=["of the step", "another direction"])
def test_the_moves_between_two_steps_at_any_row(first_row: int, update: Direction) -> None:
    moves = [STEP[0], Move((Term(update, -3e-4),), rounding_key=(3, 1)), STEP[2]]
    assert torch.equal(moved("cpu", moves, first_row), moved("reference", moves, first_row))


def test_tables_are_kept_of_the_same_moves_only() -> None:
    """0.0 equals -0.0, but not in what it does to a zero."""
    zeros = -torch.zeros(130, 40)
    out = []
    for scale in (0.0, -0.0):
        copy = zeros.clone()
        backend("cpu").axpby_(Target(copy, Window.whole(7, copy.shape)), (Move((Term(Z, scale),)),))
        out.append(copy)
    assert not torch.equal(out[0].signbit(), out[1].signbit())


def test_a_kernel_is_compiled_once_a_machine() -> None:
    """What one process compiled the next one loads: a closure that is pickled anew in every process would never be found."""
    from zoft.backends.cpu.kernel import entry

    entry("signs")
    program = (
        "import logging; logging.basicConfig(level=logging.INFO);"
        "from zoft.backends.cpu.kernel import entry; entry('signs'); print('loaded')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "loaded" and "compiled the CPU kernel" not in done.stderr
