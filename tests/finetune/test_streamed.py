"""`memory_budget` on the command line: the same run, with blocks on a disk."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from zoft.cli import main


@pytest.fixture(scope="session")
def deep_folder(tiny_folder, tmp_path_factory) -> Path:
    """The tiny llama's tokenizer, and five blocks."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("deep") / "llama"
    shutil.copytree(tiny_folder("llama"), folder)
    torch.manual_seed(0)
    config = LlamaConfig.from_pretrained(folder)
    config.num_hidden_layers = 5
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def arguments(deep_folder, data_file, tmp_path: Path):
    def build(out: str, **changes) -> list[str]:
        values = {
            "model": deep_folder, "task": "sst2", "train_file": data_file("sst2", 40), "output_dir": tmp_path / out,
            "use_cpu": "true", "max_steps": 4, "learning_rate": 1e-3, "num_train": 16, "num_dev": 8, "num_test": 8,
            "disable_tqdm": "true", "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2,
            "per_device_train_batch_size": 4, **changes,
        }  # fmt: skip
        return [f"{name}={value}" for name, value in values.items() if value is not None]

    return build


BUDGET = {"memory_budget": "0.034MB"}  # of the model's 0.050: one block stays
NARROW = {"memory_budget": "0.031MB"}  # of 0.050 in bfloat16 with low-order bits beside it: all five stream


def test_a_streamed_run_is_the_run(arguments, tmp_path: Path, capsys) -> None:
    """Log, checkpoints and model byte for byte; resumed from another's checkpoint; replayed; evaluated."""
    assert main(["finetune", *arguments("plain")]) == 0
    capsys.readouterr()
    assert main(["finetune", *arguments("streamed", stream_to=tmp_path, **BUDGET)]) == 0
    assert "4 of 5 blocks" in (said := capsys.readouterr().out) and f"stream from {tmp_path}" in said
    files = ("trajectory.zoft", "trajectory.json", "model.safetensors", "checkpoint-2/model.safetensors")
    for file in (*files, "checkpoint-2/optimizer.pt"):
        assert (tmp_path / "plain" / file).read_bytes() == (tmp_path / "streamed" / file).read_bytes(), file
    resumed = arguments("resumed", resume_from_checkpoint=tmp_path / "plain/checkpoint-2", stream_to="memory", **BUDGET)
    assert main(["finetune", *resumed]) == 0
    assert (tmp_path / "resumed/model.safetensors").read_bytes() == (tmp_path / "plain/model.safetensors").read_bytes()
    replayed = tmp_path / "replayed"
    argv = next(word for word in arguments("plain") if word.startswith("model=")).removeprefix("model=")
    assert main(["replay", argv, str(tmp_path / "streamed"), str(replayed)]) == 0
    assert (replayed / "model.safetensors").read_bytes() == (tmp_path / "plain/model.safetensors").read_bytes()


def test_light_checkpoints_and_evaluation_stream_too(arguments, tmp_path: Path, capsys) -> None:
    assert main(["finetune", *arguments("plain", weight_rounding="residual16", dtype="bfloat16")]) == 0
    settings = {"weight_rounding": "residual16", "dtype": "bfloat16", "zo_light_checkpoints": "true", **NARROW}
    capsys.readouterr()
    assert main(["finetune", *arguments("light", max_steps=2, **settings)]) == 0
    assert "5 of 5 blocks" in capsys.readouterr().out
    assert main(["finetune", *arguments("light", resume_from_checkpoint="true", **settings)]) == 0
    assert (tmp_path / "light/model.safetensors").read_bytes() == (tmp_path / "plain/model.safetensors").read_bytes()
    own = ("model", "task", "train_file", "use_cpu", "num_test", "num_train", "num_dev")
    capsys.readouterr()
    scores = []
    for budget in ([], ["memory_budget=0.015MB"]):  # of 0.025
        argv = [word for word in arguments("plain", model=tmp_path / "plain") if word.partition("=")[0] in own]
        assert main(["evaluate", *argv, *budget]) == 0
        scores.append(capsys.readouterr().out)
    assert scores[0] == scores[1] and "accuracy" in scores[0]


def test_a_comparison_does_not_stream(arguments, capsys) -> None:
    assert main(["compare", *arguments("out", methods="zo", **BUDGET)]) == 2
    assert "zoft compare measures a step on a copy of the model" in capsys.readouterr().err
