"""What a streamed model takes of memory: the resident set of a process of its own, its pages of files included."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from zoft.bench.peak import RESET

PROGRAM = Path(__file__).with_name("resident_program.py")
BUDGET = 60_000_000
BESIDE = 130_000_000  # what the run takes beside weights: activations, panels of checksums, the heap, libraries' pages


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    """A decoder of 405 MB: 24 blocks of 16.8 MB and 2 MB of embeddings."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1000, hidden_size=512, intermediate_size=2048, num_hidden_layers=24, num_attention_heads=8,
        max_position_embeddings=64, tie_word_embeddings=True,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("large")
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def run(folder: Path, way: str, out: Path) -> dict[str, Any]:
    command = [sys.executable, str(PROGRAM), str(folder), way, "60MB", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_run_stays_in_its_budget_and_gives_the_same_bits(model_folder, tmp_path: Path) -> None:
    """Loading, steps, log, saving and replay: all of it is within the budget and what any run takes."""
    try:
        open(RESET, "w").close()
    except OSError:
        pytest.skip(f"{RESET} cannot be written here: resident peaks are not counted")
    size = (model_folder / "model.safetensors").stat().st_size
    plain = run(model_folder, "plain", tmp_path / "plain")
    assert plain["peak"] > size > 2 * (BUDGET + BESIDE), "the measurement sees a model in memory"
    for way in ("disk", "memory"):
        streamed = run(model_folder, way, tmp_path / way)
        assert streamed["peak"] <= BUDGET + BESIDE, (way, streamed["peak"], plain["peak"])
        assert streamed["losses"] == plain["losses"] and streamed["fingerprints"] == plain["fingerprints"]
        assert len(set(streamed["fingerprints"])) == 1, "the log leads to the weights"
        assert saved(tmp_path / way / "saved") == saved(tmp_path / "plain/saved")


def saved(folder: Path) -> dict[str, bytes]:
    """The bytes of every weight in a folder, in however many files."""
    from safetensors.torch import load_file

    found = {}
    for file in folder.glob("*.safetensors"):
        found |= {name: weight.numpy().tobytes() for name, weight in load_file(file).items()}
    return found
