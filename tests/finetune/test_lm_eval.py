"""lm-eval-harness reads what a run saved, and scores it as zoft does. Skipped where the harness is not installed."""

import json

import pytest

from zoft.cli import main

lm_eval = pytest.importorskip("lm_eval", reason="lm-eval-harness is not installed")


def test_the_harness_agrees_with_zoft_evaluate(tiny_folder, data_file, tmp_path, monkeypatch):
    from lm_eval.models.huggingface import HFLM

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    run, asked = tmp_path / "run", data_file("sst2", 12, "asked.jsonl")
    settings = [
        "task=sst2",
        f"train_file={data_file('sst2', 40)}",
        f"validation_file={asked}",
        "num_train=20",
        "num_dev=10",
    ]
    training = ["max_steps=3", "learning_rate=1e-2", "use_cpu=true", f"output_dir={run}"]
    assert main(["finetune", f"model={tiny_folder('opt')}", *settings, *training]) == 0
    assert main(["evaluate", f"model={run}", *settings, f"output={tmp_path / 'numbers.json'}"]) == 0
    task = {
        "task": "asked", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(asked)}},
        "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "{{sentence}} It was",
        "doc_to_choice": ["terrible", "great"], "doc_to_target": "label", "metric_list": [{"metric": "acc"}],
    }  # fmt: skip
    found = lm_eval.simple_evaluate(
        model=HFLM(pretrained=str(run), device="cpu", batch_size=4), tasks=[task], bootstrap_iters=0
    )
    ours = json.loads((tmp_path / "numbers.json").read_text())
    assert found["results"]["asked"]["acc,none"] == ours["accuracy"]
