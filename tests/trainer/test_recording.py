"""A Trainer's run leaves a log from which its weights can be rebuilt, also when it was resumed."""

import pytest

from zoft.trainer import ZOConfig, ZOTrainer
from zoft.trajectory import TrajectoryLog, replay


def trained(model, arguments, rows, resume=None, **changes):
    trainer = ZOTrainer(model, ZOConfig(**{**arguments, **changes}), train_dataset=rows)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@pytest.mark.parametrize("perturbation", ["read_only", "in_place"])
def test_the_log_rebuilds_the_weights(tiny_model, arguments, rows, perturbation, tmp_path) -> None:
    changes = {"weight_decay": 0.1, "gradient_accumulation_steps": 2, "perturbation": perturbation}
    trainer = trained(tiny_model(), arguments, rows, **changes)
    rebuilt = tiny_model()
    replay(rebuilt, TrajectoryLog.read(tmp_path / "run" / "trajectory.zoft"))
    for (name, one), (_, other) in zip(trainer.model.named_parameters(), rebuilt.named_parameters(), strict=True):
        assert one.equal(other), name


def test_a_resumed_run_goes_on_in_its_log(tiny_model, arguments, rows, tmp_path) -> None:
    changes = {"save_strategy": "steps", "save_steps": 2}
    trained(tiny_model(), arguments, rows, **changes)
    trainer = trained(tiny_model(), arguments, rows, resume=str(tmp_path / "run" / "checkpoint-4"), **changes)
    log = TrajectoryLog.read(tmp_path / "run" / "trajectory.zoft")
    assert len(log.steps) == 6 and not trainer.zo.observers
    rebuilt = tiny_model()
    replay(rebuilt, log)
    assert all(a.equal(b) for a, b in zip(trainer.model.parameters(), rebuilt.parameters(), strict=True))


def test_no_log_on_request(tiny_model, arguments, rows, tmp_path) -> None:
    trained(tiny_model(), arguments, rows, zo_trajectory=False)
    assert not list((tmp_path / "run").glob("*.zoft"))
