"""First-order baselines: the same data and objective with gradients, and one table beside the zeroth-order methods."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from zoft.directions import LowRank
from zoft.errors import UsageError
from zoft.estimators import ESTIMATORS
from zoft.finetune.compare import forwards_per_step, read
from zoft.finetune.compare import main as compare
from zoft.finetune.named import IN_WEIGHTS, NAMED


@pytest.fixture
def arguments(tiny_folder, data_file, tmp_path: Path):
    def build(**changes) -> list[str]:
        values = {
            "model": tiny_folder("opt"), "task": "sst2", "train_file": data_file("sst2", 40), "output_dir": tmp_path / "out",
            "use_cpu": "true", "max_steps": 6, "num_train": 16, "num_dev": 8, "num_test": 8, "disable_tqdm": "true",
            "logging_steps": 1, "save_strategy": "no", "per_device_train_batch_size": 4, **changes,
        }  # fmt: skip
        return [f"{name}={value}" for name, value in values.items()]

    return build


def test_one_table_at_equal_forwards(arguments, tmp_path: Path, capsys) -> None:
    asked = [*arguments(learning_rate=1e-4), "adamw.learning_rate=1e-2", "lora-adamw.learning_rate=1e-2"]
    assert compare(asked) == 0
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0].strip("| ") for line in table] == [
        "method",
        "---",
        "zo",
        "mezo",
        "adamw",
        "lora-adamw",
    ]
    kept = json.loads((tmp_path / "out/compare.json").read_text())["methods"]
    runs = {name: summaries[0] for name, summaries in kept.items()}
    assert {name: run["steps"] for name, run in runs.items()} == {"zo": 6, "mezo": 6, "adamw": 4, "lora-adamw": 4}
    assert runs["mezo"]["forwards"] == 12 <= runs["zo"]["forwards"]  # the monitor takes losses of its own
    assert runs["adamw"]["forwards"] == runs["lora-adamw"]["forwards"] == 4
    assert runs["zo"]["peak_bytes"] < runs["adamw"]["peak_bytes"]
    assert runs["lora-adamw"]["peak_bytes"] < runs["adamw"]["peak_bytes"]
    assert (tmp_path / "out/lora-adamw/adapter_model.safetensors").is_file()
    assert not (tmp_path / "out/adamw/trajectory.zoft").exists()


def test_a_first_order_run_is_gradient_descent_on_the_objective(tiny_folder, tmp_path: Path) -> None:
    """In float64, with SGD and one batch of all examples: the weights that a loop by hand leaves, up to its rounding."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments

    from zoft.finetune.task_trainer import FirstOrderTaskTrainer
    from zoft.objectives import CandidateLikelihood
    from zoft.tasks import resolve
    from zoft.tasks.collate import Collator
    from zoft.tasks.encode import encode

    folder, task, objective = tiny_folder("opt"), resolve("sst2"), CandidateLikelihood()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = [{"sentence": f"the film was {word} .", "label": label} for label, word in ((0, "dull"), (1, "bright"))] * 4
    items = encode([task.example(row, n) for n, row in enumerate(rows, 1)], tokenizer, 64)
    collator = Collator.of(items, tokenizer)
    by_hand, trained = (AutoModelForCausalLM.from_pretrained(folder, dropout=0.0).double() for _ in range(2))
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        objective(by_hand, collator(list(items))).backward()
        optimizer.step()
    args = TrainingArguments(
        output_dir=str(tmp_path), optim="sgd", learning_rate=0.1, lr_scheduler_type="constant", max_steps=3, max_grad_norm=0.0,
        per_device_train_batch_size=8, remove_unused_columns=False, report_to="none", use_cpu=True,
    )  # fmt: skip
    trainer = FirstOrderTaskTrainer(
        trained, args, objective=objective, data_collator=collator, train_dataset=items, metrics=("accuracy",)
    )
    trainer.train()
    assert trainer.forwards == 3
    start = AutoModelForCausalLM.from_pretrained(folder).double().state_dict()
    moved = 0.0
    for name, weight in trained.state_dict().items():
        torch.testing.assert_close(
            weight, by_hand.state_dict()[name], rtol=0.0, atol=1e-7
        )  # losses are taken in float32
        moved = max(moved, float((weight - start[name]).abs().max()))
    assert moved > 1e-4


def test_settings_of_one_method_and_of_all(arguments) -> None:
    asked = read([*arguments(max_steps=6), "methods=zo,adamw", "zo.zo_directions=3", "adamw.learning_rate=0.5"])
    assert list(asked.runs) == ["zo", "adamw"]
    assert asked.runs["zo"].zo.zo_directions == 3 and asked.runs["adamw"].training["learning_rate"] == 0.5
    assert [forwards_per_step(run) for run in asked.runs.values()] == [6, 3]
    assert [run.training["max_steps"] for run in asked.runs.values()] == [2, 4]
    steps = read([*arguments(max_steps=6), "methods=zo,adamw", "equal=steps"])
    assert [run.training["max_steps"] for run in steps.runs.values()] == [6, 6]


def test_a_budget_in_forwards_or_in_time_and_methods_by_name(arguments) -> None:
    """Each named method's steps cost what the budget allows; its settings may be overridden."""
    asked = read(
        [
            *arguments(),
            f"methods={','.join(NAMED)},zo",
            "learning_rate=auto",
            "budget=forwards:360",
            "fzoo.zo_directions=5",
        ]
    )
    for run in asked.runs.values():
        each = forwards_per_step(run)
        assert 360 - each < run.training["max_steps"] * each <= 360
    assert asked.runs["fzoo"].zo.zo_directions == 5
    assert asked.runs["zo"].training["max_steps"] == 180 and asked.runs["lozo"].zo.form == LowRank("low_rank", 2, 50)
    timed = read([*arguments(), "methods=zo,mezo", "budget=time:10m"])
    assert {run.run.max_seconds for run in timed.runs.values()} == {600.0} and timed.equal == "steps"
    units = {name for name in NAMED if ESTIMATORS[asked.runs[name].zo.zo_estimator].normalised} | {
        "adam",
        "full-adam",
        "adamezo",
        "muon",
        "sign",
    }
    assert units == IN_WEIGHTS


def test_each_method_gets_the_rate_of_its_grid_that_is_best_on_dev(
    arguments, tmp_path: Path, capsys, monkeypatch
) -> None:
    """The runs of the grid are scored on dev alone, with the first seed; the others use the choice."""
    from zoft.finetune import session

    seen, real = [], session.finetune

    def spy(config, *args, **kwargs):
        summary = real(config, *args, **kwargs)
        seen.append((config.training["learning_rate"], config.training["seed"], kwargs.get("on_dev", False)))
        score = {0.5e-3: 0.6, 1e-3: 0.9, 2e-3: 0.9}[config.training["learning_rate"]]
        return replace(summary, after=score) if kwargs.get("on_dev") else summary

    monkeypatch.setattr(session, "finetune", spy)
    asked = arguments(methods="fzoo", max_steps=9, grid="2,1,0.5", seeds="3,4")
    assert compare([*asked, "fzoo.learning_rate=1e-3", "fzoo.zo_directions=3"]) == 0
    assert seen == [(0.5e-3, 3, True), (1e-3, 3, True), (2e-3, 3, True), (1e-3, 3, False), (1e-3, 4, False)]
    assert "| fzoo | 0.001 |" in capsys.readouterr().out
    assert (tmp_path / "out/compare.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["methods=zo,adamv"], "did you mean adam"),
        (["methods=zo,zo"], "each once"),
        (["methods=zo", "adamw.learning_rate=1"], "not among methods=zo"),
        (["equal=luck"], "equal must be"),
        (["budget=20000"], "forwards:20000 or time:10m"),
        (["grid=1,0"], "multiples of the learning rate"),
        (["methods=zo,fzoo"], "set fzoo.learning_rate"),
        (["method=zo"], "methods=zo"),
        (["methods=adamw", "zo_eps=1e-3"], "cannot be had with method=adamw"),
        (["methods=adamw", "learning_rate=auto"], "give a number"),
        (["methods=lora-adamw", "tuning=prefix"], "tuning=prefix cannot be had"),
    ],
)
def test_bad_comparisons(arguments, changes, message) -> None:
    with pytest.raises(UsageError, match=message):
        read([*arguments(), *changes])
