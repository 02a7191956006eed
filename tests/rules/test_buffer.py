"""zo_momentum_buffer=full: the recurrence itself, through every storage; exact resume; no log from the middle of a run."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.rules.test_rules import steps
from tests.trajectory.runs import Tiny, adapted, make, recorded, train
from zoft.directions import draw
from zoft.rules import rule, spend
from zoft.space import ParameterSpace
from zoft.trajectory import TrajectoryError, attach

FULL = {"buffer": "full"}


@pytest.mark.parametrize("name", ["momentum", "adam", "full_adam"])
def test_the_buffer_is_the_tensor_recurrence(name: str) -> None:
    """In float64, against the formulas of the docstrings."""
    module = torch.nn.Linear(5, 6, bias=False, dtype=torch.float64)
    made = rule(name, beta=0.7, **({} if name == "full_adam" else FULL))
    space, state = ParameterSpace(module, buffers=made.buffers), made.init()
    window = space.slots[0].window
    m, v, truth = torch.zeros(6, 5, dtype=torch.float64), torch.tensor(0.0).double(), module.weight.detach().clone()
    for t, step in enumerate(steps(30), start=1):
        pairs = list(zip(step.estimate.directions, step.estimate.coefficients, strict=True))
        g = sum((c * draw(d, window).double() for d, c in pairs), torch.zeros(6, 5, dtype=torch.float64))
        if name == "momentum":
            m = 0.7 * m + g
            truth -= 0.125 * m
        else:
            m, square = 0.7 * m + 0.3 * g, g * g if name == "full_adam" else sum(c * c for _, c in pairs)
            v = 0.99 * v + 0.01 * square
            truth -= 0.125 * (m / (1 - 0.7**t)) / ((v / (1 - 0.99**t)) ** 0.5 + 1e-8)
        move, state = spend(made, state, step)
        assert move is not None
        space.move_([move])
    torch.testing.assert_close(module.weight.detach(), truth, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic", "residual8", "residual16"])
def test_storage_through_a_buffer_is_storage_through_terms(dtype: torch.dtype, rounding: str) -> None:
    """A buffer that keeps nothing (beta = 0) holds c z, and lr is a power of two: bit for bit what plain descent moves."""
    if dtype is torch.float16 and rounding.startswith("residual"):
        pytest.skip("residual bits are bfloat16's")
    runs = []
    for own in ({"rule": "momentum", "rule_settings": {"beta": 0.0, **FULL}}, {}):
        optimizer = make(Tiny(dtype), lr=2.0**-6, weight_rounding=rounding, weight_decay=0.125, **own)
        losses = iter([0.0, 0.0, 0.0, 1.0, 0.5, 0.25, 3.0, 0.0, 0.0, 4.0])
        for _ in range(5):
            optimizer.step(lambda losses=losses: next(losses))
        runs.append(optimizer)
    for one, other, start in zip(*(run.space.slots for run in runs), Tiny(dtype).parameters(), strict=True):
        assert torch.equal(one.weight, other.weight)
        assert one.residual is None or torch.equal(one.residual, other.residual)
        assert not torch.equal(one.weight, start)


@pytest.mark.parametrize("kind", [Tiny, adapted])
def test_resume_is_exact(kind: Any) -> None:
    whole = make(kind(), rule="adam", rule_settings=FULL)
    train(whole, 5)
    kept = io.BytesIO()
    torch.save({"model": whole.model.state_dict(), "optimizer": whole.state_dict()}, kept)
    train(whole, 9)
    kept.seek(0)
    state = torch.load(kept, weights_only=True)
    again = make(kind(), rule="adam", rule_settings=FULL)
    again.model.load_state_dict(state["model"])
    again.load_state_dict(state["optimizer"])
    train(again, 9)
    assert again.space.fingerprint() == whole.space.fingerprint() and again.rule_state == whole.rule_state


def test_a_log_cannot_begin_in_the_middle(tmp_path: Path) -> None:
    optimizer = make(Tiny(), rule="momentum", rule_settings=FULL)
    train(optimizer, 3)
    with pytest.raises(TrajectoryError, match="zo_momentum_buffer=full"):
        attach(optimizer, tmp_path / "log")
    assert not (tmp_path / "log").exists()
    assert recorded(tmp_path / "log", 3, rule="momentum", rule_settings=FULL).steps == 3
