"""The monitor inside a Trainer: what is logged, two processes, learning_rate=auto, and rewinds."""

import json
import sys
from pathlib import Path

import pytest
import torch

from zoft.errors import UsageError
from zoft.estimate import Flag
from zoft.objectives import LanguageModelling
from zoft.trainer import ZOConfig, ZOTrainer

METRICS = {
    "trace", "trace_stderr", "edge_low", "edge_high", "noise_paid", "drift", "lr_requested", "lr_used", "level", "bound",
    "forwards",
}  # fmt: skip


def collate(items):
    ids = torch.stack([item["input_ids"] for item in items])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


def trained(model, arguments, rows, **changes):
    trainer = ZOTrainer(
        model, ZOConfig(**{**arguments, **changes}), train_dataset=rows, data_collator=collate,
        objective=LanguageModelling(),
    )  # fmt: skip
    flags = []
    trainer.create_optimizer()
    trainer.zo.observers.append(lambda step: flags.append(step.flags))
    trainer.train()
    return trainer, flags


def test_metrics_reach_the_log_and_the_rate_used_is_the_rate_logged(tiny_model, arguments, rows) -> None:
    trainer, flags = trained(tiny_model(), arguments, rows, learning_rate=10.0, max_steps=12)
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert all({f"stability/{name}" for name in METRICS} <= entry.keys() for entry in entries)
    assert {"stability/signal_fraction", "stability/descent_edge"} <= entries[-1].keys()
    for entry in entries:
        assert entry["learning_rate"] == entry["stability/lr_used"] < entry["stability/lr_requested"] == 10.0
    assert set(flags) == {Flag.CAPPED}


def test_report_leaves_the_run_as_it_was(tiny_model, arguments, rows) -> None:
    prints = set()
    for stability in ("off", "report"):
        trainer, _ = trained(tiny_model(), arguments, rows, stability=stability, guard="off")
        prints.add(trainer.zo.space.fingerprint())
        assert ("stability/trace" in trainer.state.log_history[0]) == (stability == "report")
    assert len(prints) == 1


def test_auto_moves_after_measuring_and_lowers_the_loss(tiny_model, arguments, rows) -> None:
    trainer, _ = trained(
        tiny_model(), arguments, rows[:16], learning_rate="auto", max_steps=60, stability_auto_steps=8, logging_steps=4,
        stability_auto_margin=0.5,
    )  # fmt: skip
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "loss" in entry]
    assert rates[0] == rates[1] == 0.0 and all(rate > 0.0 for rate in rates[3:])


def test_auto_with_the_callback_is_auto_with_the_trainer(tiny_model, arguments, rows) -> None:
    from transformers import Trainer, TrainingArguments

    from zoft.trainer import ZOCallback

    changes = {"max_steps": 16, "stability_auto_steps": 8, "stability_every": 2}
    own, flag = (
        ZOTrainer(tiny_model(), ZOConfig(**{**arguments, **changes, **auto}), train_dataset=rows[:16])
        for auto in ({"learning_rate": "auto"}, {"stability_auto": True})
    )
    own.train()
    flag.train()
    settings = {name: value for name, value in changes.items() if name != "max_steps"}
    callback = ZOCallback(learning_rate="auto", **settings)
    other = Trainer(
        tiny_model(), TrainingArguments(**{**arguments, "max_steps": 16}), train_dataset=rows[:16], callbacks=[callback]
    )
    other.train()
    rates = {trainer.zo.last.lr for trainer in (flag, other)}
    assert len(rates) == 1 and rates.pop() > 0.0 and other.zo.space.fingerprint() == flag.zo.space.fingerprint()
    assert own.zo.last.lr == flag.zo.last.lr
    with pytest.raises(UsageError, match="a number goes into TrainingArguments"):
        ZOCallback(learning_rate=1e-3)


def test_auto_needs_the_monitor(arguments) -> None:
    with pytest.raises(UsageError, match="learning_rate=auto is chosen by the stability monitor"):
        ZOConfig(**{**arguments, "learning_rate": "auto", "stability": "off"})


def test_resume_equals_an_uninterrupted_capped_run(tiny_model, arguments, rows) -> None:
    changes = {"save_strategy": "steps", "save_steps": 4, "max_steps": 8, "learning_rate": 10.0}
    whole, _ = trained(tiny_model(), arguments, rows, **changes)
    resumed = ZOTrainer(
        tiny_model(), ZOConfig(**{**arguments, **changes}), train_dataset=rows, data_collator=collate,
        objective=LanguageModelling(),
    )  # fmt: skip
    resumed.train(resume_from_checkpoint=f"{arguments['output_dir']}/checkpoint-4")
    assert resumed.zo.space.fingerprint() == whole.zo.space.fingerprint()
    assert resumed.zo.governor.metrics() == whole.zo.governor.metrics()


@pytest.mark.slow
def test_two_processes_take_one_reading_and_one_cap(tmp_path: Path) -> None:
    """Also the cap and the readings of one process that accumulates the same micro-batches."""
    from tests.trainer.test_processes import launch

    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    one = launch([sys.executable], tmp_path / "one", "2", "capped")
    two = launch(torchrun, tmp_path / "two", "1", "capped")
    assert [rank["world"] for rank in one + two] == [1, 2, 2]
    assert one[0]["lrs"] == two[0]["lrs"] == two[1]["lrs"] and max(one[0]["lrs"]) < 10.0
    assert one[0]["stability"] == two[0]["stability"] == two[1]["stability"]
    assert len({json.dumps(rank["print"]) for rank in one + two}) == 1


def test_jumps_that_persist_are_rewound_through_the_trajectory(tiny_model, arguments, rows) -> None:
    """Losses jump for six steps: the weights go back to those of an earlier step, and log and weights still agree."""
    from zoft.trajectory import TrajectoryLog, replay

    class Jumps(ZOTrainer):
        def compute_loss(self, *args, **kwargs):
            jumps = 50 <= self.state.global_step < 56
            return super().compute_loss(*args, **kwargs) + (100.0 if jumps else 0.0)

    changes = {"guard": "rewind", "guard_patience": 5, "max_steps": 70, "zo_rule": "momentum", "zo_trajectory": True}
    trainer = Jumps(tiny_model(), ZOConfig(**{**arguments, **changes}), train_dataset=rows)
    trainer.create_optimizer()
    seen: list[tuple[int, str, float]] = []

    def remember(step) -> None:
        seen.append((step.index, trainer.zo.space.fingerprint(), step.lr))

    trainer.zo.observers.append(remember)
    trainer.train()
    rewinding = next(c for c in trainer.callback_handler.callbacks if type(c).__name__ == "Rewinding")
    assert rewinding.rewinds == [(55, 30)]
    back = [position for position in range(1, len(seen)) if seen[position][0] <= seen[position - 1][0]]
    assert back == [55] and seen[55][0] == 30 and trainer.zo.steps == 45
    assert seen[55][2] <= 0.5 * arguments["learning_rate"]
    log = TrajectoryLog.read(Path(arguments["output_dir"]) / "trajectory.zoft")
    assert log.end == trainer.zo.steps
    model = tiny_model()
    replay(model, log)
    for mine, theirs in zip(model.parameters(), trainer.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_slow_climb_is_rewound_to_a_good_place(tiny_model, arguments, rows) -> None:
    """Losses that grow by 2 % a step never jump; the weights go back to the copy from before the climb."""

    class Climbs(ZOTrainer):
        def compute_loss(self, *args, **kwargs):
            calm = any(type(c).__name__ == "Rewinding" and c.rewinds for c in self.callback_handler.callbacks)
            climb = 1.0 if calm else 1.02 ** max(0, self.state.global_step - 210)
            return super().compute_loss(*args, **kwargs) * climb

    changes = {"guard": "rewind", "max_steps": 400, "stability": "off", "logging_steps": 1000}
    trainer = Climbs(tiny_model(), ZOConfig(**{**arguments, **changes}), train_dataset=rows)
    trainer.train()
    rewinding = next(c for c in trainer.callback_handler.callbacks if type(c).__name__ == "Rewinding")
    ((here, back),) = rewinding.rewinds
    assert back == 200 and 265 < here < 400 and trainer.zo.steps == 400 - (here - 200)
    assert trainer.zo.last.lr == 0.5 * arguments["learning_rate"]
