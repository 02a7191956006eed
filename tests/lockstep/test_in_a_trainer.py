"""zo_panels=lockstep through ZOTrainer and the command line."""

import json
from pathlib import Path

import pytest
import torch

import zoft
from tests.finetune.conftest import save_tokenizer
from tests.trainer.conftest import arguments, make_model, rows  # noqa: F401
from tests.tuning.conftest import model_of
from zoft.errors import UsageError
from zoft.finetune import main
from zoft.objectives import LanguageModelling, Objective
from zoft.trainer import ZOCallback, ZOConfig, ZOTrainer
from zoft.trajectory import TrajectoryLog


def trained(arguments, rows, objective=None, **changes):  # noqa: F811
    config = ZOConfig(**{**arguments, **changes})
    masked = [{**row, "attention_mask": torch.ones_like(row["input_ids"])} for row in rows]
    trainer = ZOTrainer(make_model(), config, train_dataset=masked, objective=objective or LanguageModelling())
    trainer.train()
    return trainer


def test_a_run_in_lockstep_is_the_run_in_turn(arguments, rows) -> None:  # noqa: F811
    """Accumulated micro-batches and the monitor's points included; the losses differ by rounding, so the weights do."""
    changes = {"zo_directions": 2, "gradient_accumulation_steps": 2, "stability_every": 2}
    runs = [trained(arguments, rows, zo_panels=panels, **changes) for panels in ("jit", "lockstep")]
    weights = [dict(run.model.named_parameters()) for run in runs]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, rtol=0, atol=2e-5)
    first, second = ([entry for entry in run.state.log_history if "loss" in entry] for run in runs)
    for mine, theirs in zip(first, second, strict=True):
        assert theirs["loss"] == pytest.approx(mine["loss"], rel=1e-5)
    extra = runs[1].forwards - runs[0].forwards
    assert extra == 4  # the first population is compared


def test_a_run_resumes_and_replays_bit_for_bit(arguments, rows, tmp_path) -> None:  # noqa: F811
    changes = {
        "zo_panels": "lockstep",
        "save_strategy": "steps",
        "save_steps": 2,
        "zo_directions": 3,
        "zo_row_budget": 8,
    }
    whole = trained(arguments, rows, **changes)
    start = f"{arguments['output_dir']}/checkpoint-2"
    again = ZOTrainer(
        make_model(), ZOConfig(**{**arguments, **changes}), objective=LanguageModelling(),
        train_dataset=[{**row, "attention_mask": torch.ones_like(row["input_ids"])} for row in rows],
    )  # fmt: skip
    again.train(resume_from_checkpoint=start)
    assert again.zo.space.fingerprint() == whole.zo.space.fingerprint()
    log = TrajectoryLog.read(Path(arguments["output_dir"]) / "trajectory.zoft")
    fresh = zoft.ZOOptimizer(make_model(), lr=1e-3, seed=whole.args.seed, directions=3)
    for step in log.steps:
        fresh.apply(step)
    assert fresh.space.fingerprint() == whole.zo.space.fingerprint()


def test_a_trainer_without_losses_of_examples_is_refused(arguments, rows) -> None:  # noqa: F811
    config = ZOConfig(**arguments, zo_panels="lockstep")
    with pytest.raises(UsageError, match="a model's own loss is one number for a batch"):
        ZOTrainer(make_model(), config, train_dataset=rows)

    class Own(Objective):
        name = "own"

        def evaluate(self, model, batch):
            raise NotImplementedError

    with pytest.raises(UsageError, match="Own does not say that the loss of an example depends on its own rows alone"):
        ZOTrainer(make_model(), config, train_dataset=rows, objective=Own())

    class Weighted(ZOTrainer):
        def compute_loss(self, *given, **named):
            return super().compute_loss(*given, **named)

    with pytest.raises(UsageError, match="Weighted has a compute_loss of its own"):
        Weighted(make_model(), config, train_dataset=rows, objective=LanguageModelling())
    from transformers import Trainer, TrainingArguments

    stock = Trainer(make_model(), TrainingArguments(**arguments), train_dataset=rows)
    with pytest.raises(UsageError, match="a model's own loss is one number"):
        ZOCallback(zo_panels="lockstep").attach(stock)


@pytest.mark.parametrize(
    ("kind", "tuning"), [("opt", "full"), ("gpt2", "lora"), ("llama", "last_k"), ("roberta", "bias")]
)
def test_a_fine_tuning_from_the_command_line(kind, tuning, tmp_path: Path) -> None:
    base, data = tmp_path / kind, tmp_path / "rows.jsonl"
    vocabulary = save_tokenizer(base, masked=kind == "roberta")
    model_of(kind, vocabulary).save_pretrained(base)
    texts = [{"sentence": f"the film was {'bright' if n % 2 else 'dull'}", "label": n % 2} for n in range(24)]
    data.write_text("\n".join(map(json.dumps, texts)))
    losses = []
    for panels in ("jit", "lockstep"):
        out = tmp_path / panels
        values = {
            "model": base, "task": "sst2", "train_file": data, "output_dir": out, "tuning": tuning, "use_cpu": "true",
            "max_steps": 3, "learning_rate": 1e-3, "num_train": 16, "num_dev": 4, "num_test": 4, "disable_tqdm": "true",
            "per_device_train_batch_size": 4, "logging_steps": 1, "zo_panels": panels,
        }  # fmt: skip
        assert main([f"{name}={value}" for name, value in values.items()]) == 0
        log = TrajectoryLog.read(out / "trajectory.zoft")
        losses.append([step.estimate.loss for step in log.steps])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5) and len(losses[0]) == 3
