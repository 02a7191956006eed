"""Several processes on CPU: the same weights on every rank, and those of one process that sees the same micro-batches."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from zoft.errors import UsageError
from zoft.trainer import ZOConfig, ZOTrainer

PROGRAM = Path(__file__).with_name("rank_program.py")
ROOT = PROGRAM.parents[2]


def launch(command: list[str], folder: Path, *arguments: str) -> list[dict]:
    """Runs the program and returns what its ranks wrote."""
    folder.mkdir(exist_ok=True)
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels' / 'torch-ext'}",
    }  # fmt: skip
    done = subprocess.run(
        [*command, str(PROGRAM), str(folder), *arguments], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(path.read_text()) for path in sorted(folder.glob(f"rank*-{arguments[-1]}.json"))]


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]


@pytest.mark.slow
def test_three_processes_equal_one_with_the_same_micro_batches(tmp_path: Path) -> None:
    one = launch([sys.executable], tmp_path / "one", "3", "trainer")
    three = launch([*TORCHRUN, "3"], tmp_path / "three", "1", "trainer")
    assert [rank["world"] for rank in one + three] == [1, 3, 3, 3]
    assert len({rank["print"] for rank in one + three}) == 1


@pytest.mark.slow
def test_two_processes_equal_one_with_the_same_micro_batches(tmp_path: Path) -> None:
    torchrun = [*TORCHRUN, "2"]
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    one = launch([sys.executable], tmp_path / "one", "2", "trainer")
    two = launch(torchrun, tmp_path / "two", "1", "trainer")
    callback = launch(accelerate, tmp_path / "two", "1", "callback")
    assert [rank["world"] for rank in one + two + callback] == [1, 2, 2, 2, 2]
    assert len({rank["print"] for rank in one + two + callback}) == 1


@pytest.mark.slow
def test_directions_shared_out_equal_one_process_with_the_same_batch(tmp_path: Path) -> None:
    """Both processes are given the same two micro-batches; each takes two of the four directions."""
    one = launch([sys.executable], tmp_path / "one", "2", "groups")
    two = launch([*TORCHRUN, "2"], tmp_path / "two", "2", "groups")
    assert [rank["world"] for rank in one + two] == [1, 2, 2]
    assert len({(rank["print"], rank["loss"], *rank["lrs"]) for rank in one + two}) == 1


def test_processes_that_would_train_alone_are_refused(tiny_model, arguments, rows, monkeypatch) -> None:
    """Started on CPUs by a launcher that does not say so."""
    config = ZOConfig(**arguments)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match=r"2 processes were started, but each would train alone: .* use_cpu=true"):
        ZOTrainer(tiny_model(), config, train_dataset=rows)
