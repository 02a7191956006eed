"""`torchrun … -m zoft.finetune recipe=quickstart`: a run, to its end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_quickstart_on_two_processes_ends_well(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "zoft.finetune",
        "recipe=quickstart", "use_cpu=true", "eval_strategy=no", "learning_rate=auto", "max_steps=24", "logging_steps=8",
        "per_device_train_batch_size=16", f"output_dir={tmp_path}",
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "accuracy" in done.stdout
    log = json.loads((tmp_path / "trainer_state.json").read_text())["log_history"]
    last = [entry for entry in log if "loss" in entry][-1]
    assert last["learning_rate"] == last["stability/lr_used"] > 0.0
