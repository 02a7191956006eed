"""What people write first who come from optimizers with gradients, and what they are told."""

import pytest
import torch
from torch import nn

from zoft.backends import Rounding
from zoft.errors import UsageError
from zoft.optimizer import ZOOptimizer


@pytest.fixture
def model() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, 2)


def test_it_takes_the_model_not_its_parameters(model: nn.Linear) -> None:
    for given in (model.parameters(), list(model.parameters()), [{"params": list(model.parameters())}]):
        with pytest.raises(UsageError, match=r"takes the model itself.*not (generator|list)"):
            ZOOptimizer(given, lr=0.1)  # type: ignore[arg-type]


def test_gradients_that_somebody_made_are_not_ignored(model: nn.Linear) -> None:
    optimizer = ZOOptimizer(model, lr=0.1)
    assert optimizer.step() is None  # nothing was evaluated, nothing was asked for
    model(torch.ones(3, 4)).square().mean().backward()
    with pytest.raises(UsageError, match=r"uses no gradients of backward\(\)"):
        optimizer.step()
    optimizer.accumulate(lambda: model(torch.ones(3, 4)).square().mean())
    assert optimizer.step() is not None


def test_a_step_takes_a_closure_that_returns_a_loss(model: nn.Linear) -> None:
    optimizer, start = ZOOptimizer(model, lr=0.1), model.weight.detach().clone()
    with pytest.raises(UsageError, match=r"given a closure that computes it.*Tensor came"):
        optimizer.step(model(torch.ones(3, 4)).square().mean())  # type: ignore[arg-type]
    for nothing in (None, (torch.zeros(()), 1), "loss"):
        with pytest.raises(UsageError, match=f"returns its loss.*{type(nothing).__name__} came"):
            optimizer.step(lambda nothing=nothing: nothing)  # type: ignore[arg-type, return-value]
    assert torch.equal(model.weight, start) and optimizer.steps == 0


def test_16_bit_weights_keep_small_updates_by_default() -> None:
    torch.manual_seed(0)
    model, x = nn.Linear(64, 32).to(torch.bfloat16), torch.randn(8, 64, dtype=torch.bfloat16)
    optimizer = ZOOptimizer(model, lr=1e-6)
    assert optimizer.space.rounding is not Rounding.NEAREST
    start = optimizer.space.fingerprint()
    optimizer.step(lambda: model(x).float().square().mean())
    assert optimizer.space.fingerprint() != start


def test_auto_goes_by_the_rank_with_the_least_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replicas in a loop of one's own must store their weights alike."""
    model = nn.Linear(64, 32).to(torch.bfloat16)
    count = sum(weight.numel() for weight in model.parameters())
    for least, chosen in ((8 * count, Rounding.RESIDUAL16), (5 * count, Rounding.RESIDUAL8), (0, Rounding.STOCHASTIC)):
        monkeypatch.setattr("zoft.optimizer.world_size", lambda: 2)
        monkeypatch.setattr("zoft.optimizer.gather", lambda mine, least=least: [mine, [float(least)]])
        assert ZOOptimizer(model, lr=1e-6).space.rounding is chosen
