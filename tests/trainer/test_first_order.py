"""The monitor of a Trainer that uses gradients: what it measures, when it caps, and several processes."""

import json
import random
import sys
from pathlib import Path

import numpy
import pytest
import torch

from zoft.errors import UsageError
from zoft.same_draws import kept_draws
from zoft.trainer import StabilityCallback, ZOConfig, ZOTrainer
from zoft.trainer.stability_callback import sgd_edge


def first_order(model, arguments, rows, callback, **changes):
    from transformers import Trainer, TrainingArguments

    trainer = Trainer(
        model, TrainingArguments(**{**arguments, "optim": "sgd", **changes}), train_dataset=rows, callbacks=[callback]
    )
    trainer.train()
    return trainer


def test_a_first_order_run_is_measured_and_left_alone(tiny_model, arguments, rows, caplog) -> None:
    from transformers import Trainer, TrainingArguments

    plain = Trainer(tiny_model(), TrainingArguments(**{**arguments, "optim": "sgd"}), train_dataset=rows)
    plain.train()
    watched = first_order(tiny_model(), arguments, rows, StabilityCallback(every=2))
    for mine, theirs in zip(watched.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    entry = watched.state.log_history[-2]
    assert entry["stability/lr_used"] == 1e-3 and "stability/sharpness" in entry and "stability/trace" in entry


def test_its_losses_move_no_generator(tiny_model, arguments, rows, monkeypatch) -> None:
    """A loss that draws from numpy and Python too (the devices' generators: tests/ground/test_same_draws.py)."""
    from transformers import Trainer, TrainingArguments

    asked: list[set[torch.device]] = []

    def watched(devices):
        asked.append(set(devices))
        return kept_draws(devices)

    monkeypatch.setattr("zoft.trainer.stability_callback.kept_draws", watched)

    class Drawing(Trainer):
        def compute_loss(self, *args, **kwargs):
            noise = numpy.random.random() + random.random()
            return super().compute_loss(*args, **kwargs) * (1.0 + noise)

    after = []
    for callbacks in ([], [StabilityCallback(every=2)]):
        args = TrainingArguments(**{**arguments, "optim": "sgd"})
        trainer = Drawing(tiny_model(), args, train_dataset=rows, callbacks=callbacks)
        trainer.train()
        after.append((*(w.detach().clone() for w in trainer.model.parameters()), torch.rand(8)))
        after[-1] += (torch.tensor([numpy.random.random(), random.random()], dtype=torch.float64),)
    assert all(map(torch.equal, *after))
    assert asked == [{torch.device("cpu")}] * 3


class Bowl(torch.nn.Module):
    """50 ||w||^2: every curvature is 100, so gradient descent is stable below 0.02."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(8))

    def forward(self, input_ids, labels=None):
        return {"loss": 50.0 * self.weight.square().sum()}


@pytest.mark.parametrize("cap", [False, True])
def test_a_first_order_run_is_capped_only_when_asked(arguments, rows, cap, caplog) -> None:
    callback = StabilityCallback(every=2, cap=cap, margin=0.75)
    trainer = first_order(Bowl(), arguments, rows, callback, learning_rate=0.05, max_steps=4, logging_steps=1)
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    for entry in entries:  # to 1 %: losses of 400 are rounded at 2e-5, a probe's floor is 1 in 800
        if entry["loss"] > 1000.0:  # lost, as it must be; what is left of the curvature is rounding
            continue
        assert entry["stability/edge_high"] == pytest.approx(0.02, rel=1e-2)
        assert entry["stability/trace"] == pytest.approx(800.0, rel=1e-2)
        used = entry["stability/lr_used"]
        assert used == pytest.approx(0.015 if cap else 0.05, rel=1e-2) and entry["learning_rate"] == used
    assert (entries[-1]["loss"] < entries[0]["loss"]) == cap
    assert ("is above" in caplog.text) == (not cap)


def test_a_zeroth_order_trainer_has_its_own(tiny_model, arguments, rows) -> None:
    with pytest.raises(UsageError, match="has its own monitor"):
        ZOTrainer(tiny_model(), ZOConfig(**arguments), train_dataset=rows, callbacks=[StabilityCallback()])


@pytest.mark.parametrize("attached", [False, True])
def test_a_callback_that_comes_late_says_so_or_is_attached(tiny_model, arguments, rows, attached) -> None:
    from transformers import Trainer, TrainingArguments

    trainer = Trainer(tiny_model(), TrainingArguments(**{**arguments, "optim": "sgd"}), train_dataset=rows)
    if attached:
        StabilityCallback(every=2).attach(trainer)
        trainer.train()
        assert "stability/trace" in trainer.state.log_history[0]
    else:
        trainer.add_callback(StabilityCallback())
        with pytest.raises(UsageError, match=r"StabilityCallback\(\)\.attach\(trainer\)"):
            trainer.train()


@pytest.mark.parametrize("settings", [
    {}, {"momentum": 0.9}, {"momentum": 0.9, "dampening": 0.5}, {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.5, "nesterov": True}, {"dampening": 0.5},
])  # fmt: skip
def test_the_edge_of_torchs_sgd(settings) -> None:
    """On a parabola the weight shrinks 1 % below the edge, and grows 1 % above it."""
    ends = []
    for factor in (0.99, 1.01):
        weight = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
        optimizer = torch.optim.SGD([weight], lr=1.0, **settings)
        optimizer.param_groups[0]["lr"] = factor * sgd_edge(2.5, optimizer.param_groups[0])
        for _ in range(4000):
            optimizer.zero_grad()
            (0.5 * 2.5 * weight**2).sum().backward()
            optimizer.step()
        ends.append(abs(weight.item()))
    assert ends[0] < 0.1 and ends[1] > 10.0


@pytest.mark.slow
def test_two_processes_take_one_first_order_reading_and_one_cap(tmp_path: Path) -> None:
    from tests.trainer.test_processes import launch

    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    ranks = launch(torchrun, tmp_path / "two", "1", "first_order")
    assert [rank["world"] for rank in ranks] == [2, 2]
    assert ranks[0]["stability"] == ranks[1]["stability"] and ranks[0]["stability"]["stability/lr_used"] < 50.0
    assert len({json.dumps(rank["print"]) for rank in ranks}) == 1
