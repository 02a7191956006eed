"""A worker is killed: the launcher starts the group again, which catches up from base and log and ends equal."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.trainer.restart_program import train
from zoft.trainer import ZOConfig, ZOTrainer
from zoft.trainer.restart import newest_of_this_run
from zoft.trajectory.mark import MARK

PROGRAM = Path(__file__).with_name("restart_program.py")
ROOT = PROGRAM.parents[2]


def launch(command: list[str], folder: Path, accumulation: int) -> tuple[list[dict], str]:
    """What each rank wrote, and what was said."""
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels' / 'torch-ext'}",
    }  # fmt: skip
    done = subprocess.run(
        [*command, str(PROGRAM), str(folder), str(accumulation)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(path.read_text()) for path in sorted(folder.glob("rank*.json"))], done.stderr


@pytest.mark.slow
def test_the_run_ends_equal_after_a_worker_was_killed(tmp_path: Path) -> None:
    """Light checkpoints every 2 steps; rank 1 dies in step 6, so that the second start goes on from step 6."""
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "--max-restarts",
        "1",
    ]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the ranks
    try:
        undisturbed = train(str(tmp_path / "undisturbed"), accumulation=2)
    finally:
        torch.set_num_threads(threads)
    killed, said = launch(torchrun, tmp_path / "killed", 1)
    assert [rank["starts"] for rank in [undisturbed, *killed]] == [0, 1, 1]
    assert [rank["taken"] for rank in killed] == [[6, 7, 8]] * 2
    assert len({(rank["print"], json.dumps(rank["rule"])) for rank in [undisturbed, *killed]}) == 1
    assert f"going on from {tmp_path / 'killed' / 'checkpoint-6'}" in said
    assert all(rank["largest"] <= 2048 < rank["weights"] / 20 for rank in killed), "hashes of settings, and no weights"
    assert not list((tmp_path / "killed").glob("checkpoint-*/*.safetensors"))
    light = sum(
        path.stat().st_size for path in (tmp_path / "killed" / "checkpoint-8").iterdir() if "rng" not in path.name
    )
    assert light < killed[0]["weights"]


def test_a_checkpoint_older_than_the_launcher_is_another_runs(tiny_model, arguments, rows, tmp_path: Path) -> None:
    """Processes that fail before they begin a log leave that of the run before them in the folder."""
    config = ZOConfig(**{**arguments, "save_strategy": "steps", "save_steps": 3})
    ZOTrainer(tiny_model(), config, train_dataset=rows).train()
    assert newest_of_this_run(tmp_path / "run") == tmp_path / "run/checkpoint-6"
    os.utime(tmp_path / "run/checkpoint-6" / MARK, (1e9, 1e9))
    assert newest_of_this_run(tmp_path / "run") == tmp_path / "run/checkpoint-3"
    os.utime(tmp_path / "run/checkpoint-3" / MARK, (1e9, 1e9))
    assert newest_of_this_run(tmp_path / "run") is None
