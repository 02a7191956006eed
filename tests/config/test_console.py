"""How a command ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from zoft.config.console import meet_on_cpus

PROGRAM = """
import sys
import torch.distributed as dist
from zoft.config.console import guarded

def join(argv):
    if not dist.is_initialized():
        dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=0, world_size=1)

if sys.argv[2] == "before":
    join([])
print(guarded(join, []), dist.is_initialized())
"""


@pytest.mark.parametrize("joined", ["before", "within"])
def test_a_command_leaves_the_group_that_it_joined_and_no_other(tmp_path: Path, joined: str) -> None:
    """A thread of the group that outlived the interpreter could abort a process whose work was done."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "store"), joined],
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["0", str(joined == "before")]


def test_a_command_that_needs_no_torch_does_not_import_it() -> None:
    program = "import sys; from zoft.config.console import guarded; guarded(lambda argv: 0, []); print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).split() == ["False"]


@pytest.mark.parametrize(
    ("environ", "accelerator", "found"),
    [
        ({"WORLD_SIZE": "2"}, False, "true"),
        ({"WORLD_SIZE": "2"}, True, None),
        ({"WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "False"}, False, "False"),
        ({"WORLD_SIZE": "1"}, False, None),
        ({}, False, None),
    ],
)
def test_processes_without_accelerators_meet_on_cpus(environ, accelerator, found, monkeypatch) -> None:
    monkeypatch.setattr("torch.accelerator.is_available", lambda: accelerator)
    meet_on_cpus(environ)
    assert environ.get("ACCELERATE_USE_CPU") == found
