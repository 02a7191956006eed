"""A Trainer's run leaves a log from which its weights can be rebuilt, also when it was resumed."""

import shutil

import pytest
from transformers import PreTrainedModel

from zoft.errors import UsageError
from zoft.trainer import ZOConfig, ZOTrainer
from zoft.trajectory import Recorder, TrajectoryError, TrajectoryLog, replay


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


def test_the_log_is_on_the_disk_before_a_checkpoint_is_begun(tiny_model, arguments, rows, monkeypatch) -> None:
    """A power cut in between must not leave a checkpoint ahead of its log. Also for a save that an evaluation asked for."""
    happened = []
    sync, save = Recorder.sync, PreTrainedModel.save_pretrained

    def noted_sync(self):
        happened.append(("sync", self.steps))
        sync(self)

    def noted_save(self, folder, *args, **kwargs):
        happened.append(("save", str(folder).rpartition("-")[2]))
        save(self, folder, *args, **kwargs)

    monkeypatch.setattr(Recorder, "sync", noted_sync)
    monkeypatch.setattr(PreTrainedModel, "save_pretrained", noted_save)
    for changes in (
        {"save_strategy": "steps", "save_steps": 3},
        {"save_strategy": "best", "metric_for_best_model": "loss"},
    ):
        happened.clear()
        args = ZOConfig(**{**arguments, **changes, "eval_strategy": "steps", "eval_steps": 3})
        trainer = ZOTrainer(tiny_model(), args, train_dataset=rows, eval_dataset=rows[:4])
        trainer.train()
        saves = [place for place, (what, _) in enumerate(happened) if what == "save"]
        assert saves and all(happened[n - 1] == ("sync", int(happened[n][1])) for n in saves), happened


@pytest.mark.parametrize("by_name", [True, False])
def test_a_checkpoint_of_another_run_is_refused(tiny_model, arguments, rows, by_name, tmp_path) -> None:
    """Same settings, other data: only the mark in the checkpoint tells; also for resume_from_checkpoint=True."""
    changes = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    trained(tiny_model(), arguments, rows, **changes)
    trained(tiny_model(), arguments, rows[::-1], **changes, output_dir=str(tmp_path / "other"))
    shutil.copytree(tmp_path / "other" / "checkpoint-4", tmp_path / "run" / "checkpoint-4", dirs_exist_ok=True)
    resume = str(tmp_path / "run" / "checkpoint-4") if by_name else True
    with pytest.raises(TrajectoryError, match="different runs"):
        trained(tiny_model(), arguments, rows, resume=resume, **{**changes, "max_steps": 6})


def test_resume_true_takes_the_last_whole_checkpoint(tiny_model, arguments, rows, tmp_path) -> None:
    changes = {"save_strategy": "steps", "save_steps": 2}
    with pytest.raises(UsageError, match="no whole checkpoint"):
        trained(tiny_model(), arguments, rows, resume=True, **changes)
    whole = trained(tiny_model(), arguments, rows, **changes)
    (tmp_path / "run" / "checkpoint-6" / "trainer_state.json").unlink()  # killed while it was written
    again = trained(tiny_model(), arguments, rows, resume=True, **changes)
    assert again.zo.steps == 6 and again.zo.space.fingerprint() == whole.zo.space.fingerprint()


def test_no_log_on_request(tiny_model, arguments, rows, tmp_path) -> None:
    trained(tiny_model(), arguments, rows, zo_trajectory=False)
    assert not list((tmp_path / "run").glob("*.zoft"))
