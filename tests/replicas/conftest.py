"""Programs of several processes, started once for all tests of a module."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def run_program(name: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs the program beside this file, which leaves what it found in `folder`."""
    paths = f"{ROOT}{os.pathsep}{ROOT / 'kernels' / 'torch-ext'}"
    return subprocess.run(
        [sys.executable, str(HERE / name), str(folder)], env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
        capture_output=True, text=True, timeout=590,
    )  # fmt: skip
