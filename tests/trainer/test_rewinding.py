"""guard=rewind across checkpoints, exceptions and new models: the weights are always those that the log leads to."""

from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

from zoft.errors import UsageError
from zoft.trainer import ZOConfig, ZOTrainer
from zoft.trainer.recording import RecordTrajectory
from zoft.trainer.rewinding import Rewinding
from zoft.trainer.settings import ZOSettings
from zoft.trajectory import Snapshot, TrajectoryLog, replay

REWIND = {"guard": "rewind", "guard_patience": 3, "stability": "off", "logging_steps": 1000}


class Broken(ZOTrainer):
    """Losses of Trainer's steps 30 to 32 are not finite: three refusals, then a rewind by 23 steps, to step 10."""

    def zo_losses(self, *args, **kwargs):
        return super().zo_losses(*args, **kwargs) * (float("nan") if 30 <= self.state.global_step < 33 else 1.0)


class StopsAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.global_step == self.step:
            self.step = -1
            raise KeyboardInterrupt


def led_to(trainer: ZOTrainer, base: torch.nn.Module) -> bool:
    """Whether the log in the run's folder leads from `base` to the trainer's weights."""
    replay(base, TrajectoryLog.read(Path(trainer.args.output_dir) / "trajectory.zoft"))
    pairs = zip(trainer.model.parameters(), base.parameters(), strict=True)
    return all(torch.equal(mine, rebuilt) for mine, rebuilt in pairs)


def test_a_run_resumes_from_a_checkpoint_behind_a_rewind(tiny_model, arguments, rows, tmp_path) -> None:
    """The optimizer's count is below Trainer's there, although the checkpoint holds its state."""
    config = {**arguments, **REWIND, "max_steps": 46, "save_strategy": "steps", "save_steps": 10}
    whole = Broken(tiny_model(), ZOConfig(**config), train_dataset=rows)
    whole.train()
    assert whole.zo.steps == 46 - 23 and led_to(whole, tiny_model())
    again = Broken(tiny_model(), ZOConfig(**config), train_dataset=rows)
    again.train(resume_from_checkpoint=tmp_path / "run/checkpoint-40")
    assert again.zo.steps == whole.zo.steps and again.zo.space.fingerprint() == whole.zo.space.fingerprint()
    assert led_to(again, tiny_model())


@pytest.mark.parametrize(
    "changes", [{}, {"zo_rule": "momentum", "stability": "cap", "stability_every": 4}], ids=["sgd", "momentum"]
)
@pytest.mark.parametrize("checkpoint", [20, 30])
def test_a_resumed_run_goes_back_behind_its_checkpoint(
    tiny_model, arguments, rows, tmp_path, checkpoint, changes
) -> None:
    """The place lies before the checkpoint: the run that was not disturbed and the one that was resumed end alike."""
    config = {**arguments, **REWIND, **changes, "max_steps": 46, "save_strategy": "steps", "save_steps": 10}
    whole = Broken(tiny_model(), ZOConfig(**config), train_dataset=rows)
    whole.train()
    assert whole._rewinding.rewinds == [(33, 10)]
    config["output_dir"] = str(tmp_path / "stopped")
    stopped = Broken(tiny_model(), ZOConfig(**config), train_dataset=rows, callbacks=[StopsAt(checkpoint + 2)])
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    again = Broken(tiny_model(), ZOConfig(**config), train_dataset=rows)
    again.train(resume_from_checkpoint=tmp_path / f"stopped/checkpoint-{checkpoint}")
    assert again._rewinding.rewinds == [(33, 10)]
    assert again.zo.space.fingerprint() == whole.zo.space.fingerprint() and again.zo.last == whole.zo.last
    assert again.zo.governor.metrics() == whole.zo.governor.metrics()
    assert led_to(again, tiny_model())


def test_checkpoints_without_weights_cannot_hold_places_to_go_back_to() -> None:
    with pytest.raises(UsageError, match="guard=skip"):
        ZOSettings(zo_light_checkpoints=True, guard="rewind")


def test_an_interrupted_call_of_train_leaves_no_observer(tiny_model, arguments, rows) -> None:
    """A step seen twice would be replayed twice by the next rewind."""
    config = ZOConfig(**{**arguments, **REWIND, "max_steps": 36})
    trainer = Broken(tiny_model(), config, train_dataset=rows, callbacks=[StopsAt(5)])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert not trainer.zo.observers
    trainer.train()
    (rewinding,) = (c for c in trainer.callback_handler.callbacks if isinstance(c, Rewinding))
    assert rewinding.rewinds == [(5 + 33, 5 + 10)] and not trainer.zo.observers
    assert led_to(trainer, tiny_model())


def test_a_new_model_gets_new_callbacks(tiny_model, arguments, rows) -> None:
    """With `model_init` every call of `train` begins anew; the earlier model is let go."""
    trainer = ZOTrainer(None, ZOConfig(**{**arguments, **REWIND}), train_dataset=rows, model_init=tiny_model)
    for _ in range(2):
        trainer.train()
        own = [c for c in trainer.callback_handler.callbacks if isinstance(c, RecordTrajectory | Rewinding)]
        assert len(own) == 2 and all(c.optimizer is trainer.zo for c in own)
        assert trainer.zo.steps == 6 and led_to(trainer, tiny_model())


def test_places_to_go_back_to_are_in_cpu_memory_wherever_they_were_loaded() -> None:
    """With several processes Trainer loads an optimizer's state onto the GPU, which has no room for copies of the weights."""

    class Loaded:
        def cpu(self) -> str:
            return "on the CPU"

    state = {
        "step": 3,
        "rule_state": {},
        "skipped": 1,
        "weights": {"w": Loaded()},
        "residuals": {},
        "momenta": {"w": Loaded()},
    }
    found = Snapshot.of_state(state)
    assert found.weights == found.momenta == {"w": "on the CPU"}
    assert found.residuals == {} and (found.step, found.skipped) == (3, 1)
