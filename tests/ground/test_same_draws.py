"""A loss that draws random numbers draws the same ones at every point of a step, and training's path stays its own."""

import random

import numpy
import pytest
import torch
from torch import nn

from zoft.optimizer import ZOOptimizer
from zoft.same_draws import SameDraws, kept_draws
from zoft.stability import StabilitySettings, govern
from zoft.stability.probes import Prober

X = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))


class Outside(nn.Module):
    """Reads its child's weight itself, so that the first, audited pass is begun twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x + torch.randn_like(x), self.inner.weight)


def trained(model: nn.Module, perturbation: str, **settings) -> tuple[ZOOptimizer, list[list[float]]]:
    """Five steps of two micro-batches; the numbers that each micro-batch's evaluations drew."""
    optimizer = ZOOptimizer(model, lr=1e-3, directions=2, perturbation=perturbation)
    if settings:
        govern(optimizer, StabilitySettings(**settings))
    drawn: list[list[float]] = []

    def loss() -> torch.Tensor:
        value = model(X).square().mean()
        drawn[-1].append(torch.rand(()).item())
        return value + drawn[-1][-1]

    torch.manual_seed(7)
    for _ in range(5):
        for _ in range(2):
            drawn.append([])
            optimizer.accumulate(loss)
        optimizer.step()
    return optimizer, drawn


@pytest.mark.parametrize("perturbation", ["read_only", "in_place"])
@pytest.mark.parametrize("outside", [False, True])
def test_every_point_of_a_micro_batch_draws_the_same(perturbation, outside) -> None:
    torch.manual_seed(0)
    _, drawn = trained(Outside() if outside else nn.Linear(4, 4), perturbation)
    torch.manual_seed(7)
    expected = []
    for _ in drawn:  # the generator as if each micro-batch had been evaluated once
        if outside:
            torch.randn_like(X)
        expected.append(torch.rand(()).item())
    assert all(len(calls) >= 4 and set(calls) == {once} for calls, once in zip(drawn, expected, strict=True))


@pytest.mark.parametrize("perturbation", ["read_only", "in_place"])
def test_losses_that_a_governor_asks_for_do_not_move_the_generator(perturbation) -> None:
    plain, _ = trained(Outside(), perturbation)
    watched, drawn = trained(Outside(), perturbation, stability="report", stability_probes=2, guard="off")
    assert watched.governor is not None and max(map(len, drawn)) > 4
    assert watched.space.fingerprint() == plain.space.fingerprint()


def test_additive_noise_does_not_reach_the_slope() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 1).double()
    quiet, noisy = (ZOOptimizer(model, lr=0.0) for _ in range(2))
    data = X.double()
    quiet.step(lambda: model(data).square().mean())
    noisy.step(lambda: model(data).square().mean() + torch.randn((), dtype=torch.float64))
    assert quiet.last is not None and noisy.last is not None
    # Two sums of numbers below 8 are each rounded by at most 2^-51; the slope divides their difference by 2 eps = 2^-9.
    assert abs(noisy.last.estimate.coefficients[0] - quiet.last.estimate.coefficients[0]) < 2.0**-50 / 2.0**-9


def test_a_prober_sees_one_state_in_all_its_losses() -> None:
    torch.manual_seed(0)
    model, drawn = nn.Linear(4, 4), []
    prober = Prober(model, lambda: drawn.append(torch.rand(()).item()) or model(X).square().mean())
    prober.probe(prober.directions(2), 2.0**-8, 0.0)
    prober.losses([prober.point(prober.directions(1)[0], 2.0**-8)])
    assert len(drawn) == 6 and len(set(drawn)) == 1


class Generators:
    """A device's module with generators of its own, one a device; each state is a count of draws."""

    def __init__(self) -> None:
        self.drawn = {0: 5, 1: 7}

    def get_rng_state(self, device: torch.device) -> torch.Tensor:
        return torch.tensor(self.drawn[device.index])

    def set_rng_state(self, state: torch.Tensor, device: torch.device) -> None:
        self.drawn[device.index] = int(state)


def test_what_is_drawn_inside_moves_no_generator(monkeypatch) -> None:
    """Neither torch's, on the CPU and on the devices named, nor numpy's, nor Python's; also where the inside raised."""
    fake = Generators()
    monkeypatch.setattr(torch, "get_device_module", lambda device: fake)

    def draws() -> tuple[float, float, float]:
        return torch.rand(()).item(), numpy.random.random(), random.random()

    torch.manual_seed(0)
    numpy.random.seed(0)
    random.seed(0)
    with kept_draws({torch.device("cuda", 0), torch.device("cuda", 1), torch.device("cpu")}):
        first = draws()
        fake.drawn = {0: 50, 1: 70}
    with pytest.raises(RuntimeError, match="out of memory"), kept_draws([torch.device("cuda", 1)]):
        assert draws() == first
        fake.drawn[1] += 1
        raise RuntimeError("out of memory")
    assert draws() == first and fake.drawn == {0: 5, 1: 7}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_generators_of_a_gpu_too() -> None:
    device = torch.device("cuda", 0)
    torch.cuda.manual_seed(0)
    first = torch.rand(2, device=device).tolist()
    torch.cuda.manual_seed(0)
    loss = SameDraws(lambda: torch.rand((), device=device).item(), [device])
    once = loss()
    assert once == loss() == first[0]
    loss.leave()
    after = torch.rand((), device=device).item()
    torch.cuda.manual_seed(0)
    assert [torch.rand((), device=device).item() for _ in range(2)] == [once, after]
