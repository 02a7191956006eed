"""zo_merge_every inside a Trainer: evaluations, checkpoints, the log and the end see merged weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.conftest import make_model
from zoft.errors import UsageError
from zoft.estimate import Flag
from zoft.objectives import LanguageModelling
from zoft.optimizer import ZOOptimizer
from zoft.trainer import ZOConfig, ZOTrainer
from zoft.trajectory import TrajectoryLog, replay

APPLY = ZOOptimizer.apply
THIN = {"zo_shape": "low_rank", "zo_merge_every": 4, "zo_rank": 1}


def trainer_of(arguments: dict, rows: list[dict], dtype: torch.dtype = torch.float32, **changes: Any) -> ZOTrainer:
    masked = [{**row, "attention_mask": torch.ones_like(row["input_ids"])} for row in rows]
    config = ZOConfig(**{**arguments, **THIN, **changes})
    return ZOTrainer(
        make_model(dtype), config, train_dataset=masked, eval_dataset=masked[:8], objective=LanguageModelling()
    )


@pytest.mark.parametrize("panels", ["jit", "lockstep"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_evaluations_checkpoints_and_the_log_tell_of_the_same_weights(
    arguments, rows, monkeypatch, dtype, panels
) -> None:
    changes = {
        "eval_strategy": "steps", "eval_steps": 6, "save_strategy": "steps", "save_steps": 7, "max_steps": 15,
        "gradient_accumulation_steps": 2, "zo_panels": panels, "stability_every": 3, "zo_directions": 2,
    }  # fmt: skip
    waited: list[bool] = []
    trainer = trainer_of(arguments, rows, dtype, **changes)
    with monkeypatch.context() as patched:
        patched.setattr(
            ZOOptimizer, "apply", lambda self, step, **k: (APPLY(self, step, **k), waited.append(bool(self.backlog)))
        )
        trainer.train()
    assert [index + 1 for index, some in enumerate(waited) if not some] == [4, 6, 7, 11, 12, 14, 15]
    log = TrajectoryLog.read(Path(arguments["output_dir"]) / "trajectory.zoft")
    assert [s.index for s in log.steps if Flag.MERGED in s.flags] == [0, 4, 6, 7, 11, 12, 14]
    seen = {entry["step"]: entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry}
    for step in (6, 12, 7, 14, 15):
        rebuilt = trainer_of(arguments, rows, dtype, output_dir=f"{arguments['output_dir']}-{step}")
        found = replay(rebuilt.model, log, step)
        if step in seen:
            assert rebuilt.evaluate()["eval_loss"] == seen[step]
        elif step == 15:
            assert found.space.fingerprint() == trainer.zo.space.fingerprint()
        else:
            from safetensors.torch import load_file

            saved = load_file(Path(arguments["output_dir"]) / f"checkpoint-{step}" / "model.safetensors")
            named = dict(rebuilt.model.named_parameters())
            assert all(torch.equal(weight, named[name]) for name, weight in saved.items())


@pytest.mark.parametrize("light", [False, True])
def test_a_run_resumes_from_a_checkpoint_between_merges(arguments, rows, light) -> None:
    changes = {"save_strategy": "steps", "save_steps": 6, "max_steps": 13, "zo_light_checkpoints": light}
    changes |= {"zo_rule": "momentum", "weight_rounding": "residual8"}
    whole = trainer_of(arguments, rows, torch.bfloat16, **changes)
    whole.train()
    before = TrajectoryLog.read(Path(arguments["output_dir"]) / "trajectory.zoft")
    again = trainer_of(arguments, rows, torch.bfloat16, **changes)
    again.train(resume_from_checkpoint=f"{arguments['output_dir']}/checkpoint-6")
    after = TrajectoryLog.read(Path(arguments["output_dir"]) / "trajectory.zoft")
    assert again.zo.space.fingerprint() == whole.zo.space.fingerprint() and after.steps == before.steps
    assert replay(make_model(torch.bfloat16), after).space.fingerprint() == whole.zo.space.fingerprint()


def test_a_run_that_breaks_off_ends_with_merged_weights(arguments, rows) -> None:
    broken = trainer_of(arguments, rows, max_steps=9)
    losses, waiting = broken.objective.losses, []

    def fail(model, batch):
        if broken.zo.steps == 6:
            waiting.append(bool(broken.zo.backlog))
            raise RuntimeError("out of memory")
        return losses(model, batch)

    broken.objective.losses = fail
    with pytest.raises(RuntimeError, match="out of memory"):
        broken.train()
    assert waiting == [True] and broken.zo.settled
    log = TrajectoryLog.read(Path(arguments["output_dir"]) / "trajectory.zoft")
    assert replay(make_model(), log).space.fingerprint() == broken.zo.space.fingerprint()


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"weight_decay": 0.1}, "weight_decay=0.1 shrinks"), ({"save_strategy": "epoch"}, "say steps")],
)
def test_settings_under_which_nothing_could_wait_are_refused(changes, told, tmp_path) -> None:
    with pytest.raises(UsageError, match=told):
        ZOConfig(output_dir=str(tmp_path), zo_shape="low_rank", zo_merge_every=4, **changes)
    ZOConfig(output_dir=str(tmp_path), zo_shape="low_rank", **changes)
