"""The packaged launch files, read and started by accelerate itself."""

import os
import socket
import subprocess
import sys

import pytest

from zoft.config import packaged_folder
from zoft.config.recipes import names_in

FOLDER = packaged_folder("configs")
PRINT_RANKS = """
import os
keys = ("RANK", "WORLD_SIZE", "ACCELERATE_USE_CPU", "ACCELERATE_USE_FSDP", "FSDP_VERSION", "ACCELERATE_MIXED_PRECISION")
print("SEEN " + " ".join(os.environ.get(key, "-") for key in keys) + "\\n", end="", flush=True)
"""


@pytest.mark.parametrize("name", names_in(FOLDER))
def test_a_launch_file_is_one_that_accelerate_reads(name):
    from accelerate.commands.config import load_config_from_file

    path = FOLDER / f"{name}.yaml"
    config = load_config_from_file(str(path))
    assert config.num_processes >= 1
    assert config.mixed_precision == "no"
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert f'accelerate launch --config_file "$(zoft configs {name})"' in first and "-m zoft.finetune recipe=" in first


# What each process of a launch sees: rank, world size, on CPU, FSDP, its version, mixed precision.
LAUNCHES = {
    "one_gpu": {"- - False - - no"},
    "cpu": {"- - True - - no"},
    "multi_gpu": {"0 2 - - - no", "1 2 - - - no"},
    "cpu_two": {"0 2 true - - no", "1 2 true - - no"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(LAUNCHES))
def test_a_launch_starts_the_processes_it_says(name, tmp_path):
    script = tmp_path / "print_ranks.py"
    script.write_text(PRINT_RANKS)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("ACCELERATE_", "FSDP_"))}
    inherited |= {"OMP_NUM_THREADS": "1"} | ({"ACCELERATE_USE_CPU": "true"} if name == "cpu_two" else {})
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    command += ["--config_file", str(FOLDER / f"{name}.yaml"), "--main_process_port", str(port), str(script)]
    done = subprocess.run(command, capture_output=True, text=True, env=inherited, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert {line[5:].strip() for line in done.stdout.splitlines() if line.startswith("SEEN ")} == LAUNCHES[name]


def test_every_launch_file_is_started():
    assert set(LAUNCHES) == set(names_in(FOLDER))


@pytest.mark.slow
def test_two_processes_of_the_launch_file_train_together_on_cpus(tmp_path):
    """As its first line says it: accelerate tells the processes nothing of the file's use_cpu."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("ACCELERATE_", "FSDP_"))}
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--main_process_port", "0"]
    command += [
        "--config_file",
        str(FOLDER / "cpu_two.yaml"),
        "-m",
        "zoft.finetune",
        "recipe=quickstart",
        "max_steps=2",
    ]
    command += ["eval_strategy=no", "save_strategy=no", f"output_dir={tmp_path}"]
    environ = inherited | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 process(es) on cpu" in done.stdout
