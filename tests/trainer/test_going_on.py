"""A log is gone on with only from the weights that it leads to; otherwise a new one begins at the present ones."""

import copy
from pathlib import Path

import pytest
import torch

from zoft.trainer import ZOConfig, ZOTrainer
from zoft.trajectory import TrajectoryLog, replay


def build(model, arguments, rows, **changes) -> ZOTrainer:
    return ZOTrainer(model, ZOConfig(**{**arguments, **changes}), train_dataset=rows, eval_dataset=rows[:8])


def log_of(trainer: ZOTrainer) -> TrajectoryLog:
    return TrajectoryLog.read(Path(trainer.args.output_dir) / "trajectory.zoft")


def leads(log: TrajectoryLog, base: torch.nn.Module, trainer: ZOTrainer) -> bool:
    """Whether replay on `base` arrives at the trainer's weights, residual bits included."""
    return replay(base, log).space.fingerprint() == trainer.zo.space.fingerprint()


SAVING = {"save_strategy": "steps", "save_steps": 4, "save_only_model": True}


@pytest.mark.parametrize(
    ("dtype", "changes", "first"),
    [
        (torch.float32, {}, 0),  # nothing is lost: sgd in float32 remembers nothing
        (torch.float32, {"zo_rule": "momentum"}, 4),
        (torch.float32, {"zo_rule": "momentum", "zo_momentum_buffer": "full"}, 4),
        (torch.float32, {"weight_decay": 1e-3}, 4),  # a decay that is owed
        (torch.bfloat16, {"weight_rounding": "residual16"}, 4),
    ],
)
def test_a_checkpoint_without_optimizer_state(
    tiny_model, arguments, rows, tmp_path, caplog, dtype, changes, first
) -> None:
    changes = {**SAVING, **changes}
    build(tiny_model(dtype), arguments, rows, **changes).train()
    whole = (tmp_path / "run/trajectory.zoft").read_bytes()
    again = build(tiny_model(dtype), arguments, rows, **changes)
    again.train(resume_from_checkpoint=str(tmp_path / "run/checkpoint-4"))
    log, base = log_of(again), tiny_model(dtype)
    assert (log.header.first, log.end, again.zo.steps) == (first, 6, 6)
    assert ("does not lead to the present weights" in caplog.text) == bool(first)
    if first:
        base = base.from_pretrained(tmp_path / "run/checkpoint-4", dtype=dtype)
        assert log.header.base == str(tmp_path / "run/checkpoint-4")
        assert (tmp_path / "run/trajectory.1.zoft").read_bytes() == whole
    assert leads(log, base, again)


def test_the_best_checkpoint_without_optimizer_state_and_on(tiny_model, arguments, rows, tmp_path) -> None:
    class FirstIsBest(ZOTrainer):
        def evaluate(self, *args, **kwargs):
            return super().evaluate(*args, **kwargs) | {"eval_loss": float(self.state.global_step)}

    changes = {**SAVING, "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True}
    for rule, firsts in (("sgd", (0, 0)), ("momentum", (0, 2))):
        config = ZOConfig(**{**arguments, **changes, "zo_rule": rule, "output_dir": str(tmp_path / rule)})
        trainer = FirstIsBest(tiny_model(), config, train_dataset=rows, eval_dataset=rows[:8])
        trainer.train()
        assert trainer.zo.steps == 2 and log_of(trainer).header.first == firsts[0]
        best = copy.deepcopy(trainer.model)
        trainer.args.load_best_model_at_end = False
        trainer.train()
        log = log_of(trainer)
        assert (log.header.first, log.end) == (firsts[1], 8)
        assert leads(log, best if firsts[1] else tiny_model(), trainer)


def test_weights_changed_between_two_calls_of_train(tiny_model, arguments, rows, caplog) -> None:
    trainer = build(tiny_model(), arguments, rows)
    trainer.train()
    trainer.train()
    log = log_of(trainer)
    assert not caplog.text and (log.header.first, log.end) == (0, 12) and leads(log, tiny_model(), trainer)
    with torch.no_grad():
        next(trainer.model.parameters()).view(-1)[7] += 1.0
    changed = copy.deepcopy(trainer.model)
    trainer.train()
    log = log_of(trainer)
    assert "does not lead to the present weights" in caplog.text
    assert (log.header.first, log.end, log.header.base) == (12, 18, "") and leads(log, changed, trainer)


@pytest.mark.parametrize("call", [2, 3, 4, 5])
def test_interrupted_between_the_losses_of_a_step_in_place(tiny_model, arguments, rows, call) -> None:
    """Restoring rounds, so the sweeps of an unfinished step are in the weights: the log tells of them."""

    class Interrupted(ZOTrainer):
        calls = 0

        def compute_loss(self, *args, **kwargs):
            self.calls += 1
            if self.calls == 12 + call:
                raise KeyboardInterrupt
            return super().compute_loss(*args, **kwargs)

    changes = {"perturbation": "in_place", "gradient_accumulation_steps": 3, "zo_eps": 1e-3, "stability": "off"}
    trainer = Interrupted(tiny_model(), ZOConfig(**{**arguments, **changes}), train_dataset=rows)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    cycles = (call + 1) // 2
    assert (trainer.zo.steps, trainer.zo.skipped, trainer.zo.last.evaluations) == (3, 1, cycles)
    assert leads(log_of(trainer), tiny_model(), trainer)
    trainer.train()
    log = log_of(trainer)
    assert (log.header.first, log.end) == (0, 9) and leads(log, tiny_model(), trainer)


def test_a_write_that_was_interrupted_ends_the_log(tiny_model, arguments, rows, caplog, monkeypatch) -> None:
    """Half a sweep is in the weights: no step leads there, and no log says so."""
    trainer = build(tiny_model(), arguments, rows)
    trainer.create_optimizer()
    move_ = trainer.zo.space.move_

    def half(moves) -> None:
        move_(moves)
        if trainer.zo.steps == 3:
            monkeypatch.undo()
            raise KeyboardInterrupt

    monkeypatch.setattr(trainer.zo.space, "move_", half)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    torn = copy.deepcopy(trainer.model)
    trainer.train()
    log = log_of(trainer)
    assert "does not lead" in caplog.text and (log.header.first, log.end) == (3, 9) and leads(log, torn, trainer)
