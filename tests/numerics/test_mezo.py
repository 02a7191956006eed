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
    seeds = MeZO(model(dtype), lr=0.01, seed=4)

    def shift(seed: int, scale: float) -> None:
        torch.manual_seed(seed)
        for weight in plain.parameters():
            z = torch.normal(mean=0, std=1, size=weight.size(), dtype=weight.dtype)
            weight.data = weight.data + scale * z * 1e-3

    for _ in range(3):
        reported = optimizer.step(lambda: loss(mine))
        with torch.random.fork_rng(devices=[]):
            seed = seeds.next_seed()
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
    second = MeZO(half, lr=0.5, seed=9)
    second.load_state_dict(first.state_dict())
    for _ in range(3):
        second.step(lambda: loss(half))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), half.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_nothing_to_train() -> None:
    with pytest.raises(UsageError, match="nothing to train"):
        MeZO(model(torch.float32).requires_grad_(False), lr=0.1)
