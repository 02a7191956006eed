"""The comparison is fair only if this is MeZO: against its algorithm written out with torch's global generator."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from zoft.errors import UsageError
from zoft.mezo import MeZO


def model(dtype: torch.dtype) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    made = nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 2)).to(dtype)
    with torch.no_grad():
        for weight in made.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
    return made


def loss(made: nn.Module) -> torch.Tensor:
    x = torch.arange(12, dtype=torch.float32).reshape(2, 6).div(10).to(next(made.parameters()).dtype)
    return made(x).float().square().mean()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@torch.no_grad()
def test_three_steps_written_out(dtype: torch.dtype) -> None:
    mine, plain = model(dtype), model(dtype)
    optimizer = MeZO(mine, lr=0.01, eps=1e-3, weight_decay=0.1, seed=4)

    def shift(seed: int, scale: float) -> None:
        torch.manual_seed(seed)
        for weight in plain.parameters():
            z = torch.normal(mean=0, std=1, size=weight.size(), dtype=weight.dtype)
            weight.data = weight.data + scale * z * 1e-3

    for step in range(3):
        reported = optimizer.step(lambda: loss(mine))
        with torch.random.fork_rng(devices=[]):
            seed = optimizer.seed_of(step)
            shift(seed, 1)
            plus = float(loss(plain))
            shift(seed, -2)
            minus = float(loss(plain))
            shift(seed, 1)
            slope = (plus - minus) / 2e-3
            torch.manual_seed(seed)
            for name, weight in plain.named_parameters():
                z = torch.normal(mean=0, std=1, size=weight.size(), dtype=weight.dtype)
                wanted = slope * z if "bias" in name else slope * z + 0.1 * weight.data
                weight.data = weight.data - 0.01 * wanted
        assert reported == plus
        assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), plain.parameters(), strict=True))


def test_global_generator_is_left_alone_and_runs_resume() -> None:
    whole, half = model(torch.float32), model(torch.float32)
    before = torch.get_rng_state()
    long, first = MeZO(whole, lr=0.01), MeZO(half, lr=0.01)
    for _ in range(6):
        long.step(lambda: loss(whole))
    for _ in range(3):
        first.step(lambda: loss(half))
    second = MeZO(half, lr=0.5)
    second.load_state_dict(first.state_dict())
    for _ in range(3):
        second.step(lambda: loss(half))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), half.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_loss_that_raises_leaves_no_noise_in_the_weights(fails_at: int) -> None:
    made, calls = model(torch.float64), 0
    optimizer, before = MeZO(made, lr=0.01), [weight.detach().clone() for weight in made.parameters()]

    def raises() -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == fails_at:
            raise RuntimeError("no memory")
        return loss(made)

    with pytest.raises(RuntimeError, match="no memory"):
        optimizer.step(raises)
    for weight, old in zip(made.parameters(), before, strict=True):
        torch.testing.assert_close(weight, old, rtol=0.0, atol=1e-15)


def test_numbers_out_of_range_are_refused() -> None:
    for given in ({"eps": 0.0}, {"lr": -1.0}, {"weight_decay": -1.0}, {"seed": -1}):
        with pytest.raises(UsageError, match=f"{'learning_rate' if 'lr' in given else next(iter(given))} must be"):
            MeZO(model(torch.float32), **{"lr": 0.1, **given})


def test_nothing_to_train() -> None:
    with pytest.raises(UsageError, match="nothing to train"):
        MeZO(model(torch.float32).requires_grad_(False), lr=0.1)


def test_micro_batches_are_averaged() -> None:
    """Two micro-batches of equal size are one batch: the same z, the mean of their slopes."""
    whole, parts = MeZO(model(torch.float64), lr=0.01), MeZO(model(torch.float64), lr=0.01)
    rows = torch.arange(24, dtype=torch.float64).reshape(4, 6).div(10)
    for _ in range(2):
        whole.step(lambda: whole.model(rows).square().mean())
        for half in (rows[:2], rows[2:]):
            parts.accumulate(lambda half=half: parts.model(half).square().mean())
        parts.step()
    for one, other in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    assert parts.step() is None and parts.steps == 2


def test_the_state_of_another_run_is_refused() -> None:
    made = MeZO(model(torch.float32), lr=0.01)
    with pytest.raises(UsageError, match="this run has 1"):
        MeZO(model(torch.float32), lr=0.01, seed=1).load_state_dict(made.state_dict())
    plain = torch.optim.SGD(made.model.parameters(), lr=0.01)
    with pytest.raises(UsageError, match="not MeZO's"):
        made.load_state_dict(plain.state_dict())
