"""load_best_model_at_end: weights, optimizer and log stand at the best checkpoint together."""

import pytest
import torch

from zoft.trainer import ZOConfig, ZOTrainer
from zoft.trajectory import TrajectoryError, TrajectoryLog, attach, replay
from zoft.trajectory.mark import MARK, read_mark, read_to_mark

BEST = {
    "save_strategy": "steps",
    "eval_strategy": "steps",
    "save_steps": 2,
    "eval_steps": 2,
    "load_best_model_at_end": True,
}


class GetsWorse(ZOTrainer):
    """Evaluations count up, so that the first checkpoint is the best; the third step's losses are not finite."""

    evaluations = 0

    def evaluate(self, *args, **kwargs):
        metrics = super().evaluate(*args, **kwargs)
        self.evaluations += 1
        return metrics | {"eval_loss": float(self.evaluations)}

    def zo_losses(self, *args, **kwargs):
        return super().zo_losses(*args, **kwargs) * (float("nan") if self.state.global_step == 3 else 1.0)


@pytest.fixture
def trained(tiny_model, arguments, rows):
    """`trained(dtype, resume=..., **changes)`: a run whose best checkpoint is that of step 2 of 6."""

    def run(dtype=torch.float32, resume=None, **changes) -> ZOTrainer:
        config = ZOConfig(**{**arguments, **BEST, **changes})
        trainer = GetsWorse(tiny_model(dtype), config, train_dataset=rows, eval_dataset=rows[:8])
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    return run


def test_best_model_is_loaded_at_the_end(tiny_model, arguments, rows) -> None:
    config = ZOConfig(**{**arguments, **BEST, "learning_rate": 0.3})
    trainer = ZOTrainer(tiny_model(), config, train_dataset=rows, eval_dataset=rows[:8])
    trainer.train()
    evaluations = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(evaluations), rel=1e-6)


@pytest.mark.parametrize("rounding", ["residual8", "residual16"])
def test_residual_bits_rule_and_step_are_the_checkpoints(trained, tiny_model, tmp_path, rounding) -> None:
    changes = {"weight_rounding": rounding, "zo_rule": "momentum"}
    trainer = trained(torch.bfloat16, **changes)
    short = trained(torch.bfloat16, **changes, output_dir=str(tmp_path / "short"), max_steps=2)
    assert (trainer.zo.steps, trainer.zo_best_step) == (2, 2)
    assert trainer.zo.space.fingerprint() == short.zo.space.fingerprint()  # residual bits count
    assert trainer.zo.rule_state == short.zo.rule_state
    assert (trainer.zo.skipped, trainer.zo_skipped_steps) == (0, 1)


def test_the_log_is_read_up_to_the_best_step(trained, tiny_model, tmp_path) -> None:
    trainer = trained()
    file = tmp_path / "run/trajectory.zoft"
    log = read_to_mark(file)
    assert log.end == 2 and TrajectoryLog.read(file).end == 6 and read_to_mark(file, 6).end == 6
    rebuilt = tiny_model()
    replay(rebuilt, log)
    assert all(a.equal(b) for a, b in zip(trainer.model.parameters(), rebuilt.parameters(), strict=True))


def test_the_mark_goes_when_the_log_goes_on(trained, tmp_path) -> None:
    trained()
    assert read_mark(tmp_path / "run").steps == 2
    trained(resume=str(tmp_path / "run/checkpoint-4"), load_best_model_at_end=False)
    assert read_mark(tmp_path / "run").steps == 6 and read_to_mark(tmp_path / "run/trajectory.zoft").end == 6


def test_a_checkpoint_without_optimizer_state_is_said(trained, tmp_path, caplog) -> None:
    trainer = trained(torch.bfloat16, save_only_model=True, weight_rounding="residual16")
    assert "holds no optimizer state" in caplog.text and trainer.zo.steps == 2
    assert not any(bits.any() for _, bits in trainer.zo.space.residuals())
    assert read_to_mark(tmp_path / "run/trajectory.zoft").end == 2


def test_a_mark_of_another_log_is_an_error_that_says_so(trained, tmp_path) -> None:
    trained()
    other = trained(output_dir=str(tmp_path / "other"), zo_seed=9)
    (tmp_path / "run" / MARK).write_bytes((tmp_path / "other" / MARK).read_bytes())
    with pytest.raises(TrajectoryError, match="marks step 2 of another log"):
        read_to_mark(tmp_path / "run/trajectory.zoft")
    precious = tmp_path / "mine.json"
    precious.write_text("{}")
    other.zo.steps = 0
    attach(other.zo, tmp_path / "mine.zoft").close()
    assert precious.exists()  # only a log called trajectory.zoft has a mark beside it
