"""The tests of the kernels, run in Triton's interpreter on the CPU: one process of their own, as Triton decides at import."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
TESTS = ("test_axpby.py", "test_sweep.py", "test_population_kernels.py", "test_custom_ops.py", "test_captured.py")


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="this process already is the interpreter's")
def test_the_kernels_in_the_interpreter() -> None:
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        *(str(HERE / name) for name in TESTS),
    ]
    done = subprocess.run(command, env=environment, cwd=HERE.parents[1], capture_output=True, text=True, check=False)
    summary = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", summary)
    assert passed and int(passed[1]) > 100, summary
    assert "no CUDA device" not in done.stdout
