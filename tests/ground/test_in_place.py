"""In place, the way back is made in one pass with the update: the same bits, one sweep less, no displaced weight to read."""

from copy import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from zoft.estimate import Flag
from zoft.optimizer import ZOOptimizer
from zoft.trajectory import TrajectoryLog, attach, replay

pytestmark = pytest.mark.filterwarnings("ignore:perturbation=in_place")


def model(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(40, 70), nn.LayerNorm(70), nn.Linear(70, 3)).to(dtype)


def bits(net: nn.Module) -> list[torch.Tensor]:
    return [weight.detach().clone() for weight in net.parameters()]


def equal(some: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


def loss_of(net: nn.Module):
    x = torch.linspace(-1, 1, 5 * 40).view(5, 40).to(next(net.parameters()).dtype)
    return lambda: net(x).float().square().mean()


def swept(optimizer: ZOOptimizer) -> list[int]:
    """Grows by the number of moves of every sweep from now on."""
    own = optimizer.space.backend = copy(optimizer.space.backend)  # backends are shared
    counts, sweep_ = [], own.sweep_
    own.sweep_ = lambda targets, moves, rounding: counts.append(len(moves)) or sweep_(targets, moves, rounding)
    return counts


@st.composite
def runs(draw: st.DrawFn) -> tuple[torch.dtype, dict]:
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]))
    sixteen = dtype in (torch.bfloat16, torch.float16)
    return dtype, {
        "distribution": "rademacher" if sixteen else draw(st.sampled_from(["rademacher", "gaussian"])),
        "eps": 2.0**-8 if sixteen else draw(st.sampled_from([2.0**-8, 1e-3])),
        "weight_rounding": draw(st.sampled_from(["nearest", "stochastic"])),
        "directions": draw(st.integers(1, 3)),
        "weight_decay": draw(st.sampled_from([0.0, 0.5])),
        "rule": draw(st.sampled_from(["sgd", "momentum"])),
        "lr": draw(st.sampled_from([1e-2, 1e-4])),
        "seed": draw(st.integers(0, 2**32 - 1)),
        "backend": draw(st.sampled_from(["reference", "cpu"])),
    }


@settings(max_examples=25, deadline=None)
@given(runs())
def test_fused_equals_unfused_bitwise(run) -> None:
    dtype, chosen = run
    nets = [model(dtype), model(dtype)]
    fused, apart = (ZOOptimizer(net, perturbation="in_place", **chosen) for net in nets)
    few, many = swept(fused), swept(apart)
    for _ in range(3):
        fused.step(loss_of(nets[0]))
        apart.accumulate(loss_of(nets[1]))
        apart.step()
        assert fused.last == apart.last
    assert equal(bits(nets[0]), bits(nets[1]))
    q = chosen["directions"]
    assert few == 3 * ([1] * (2 * q) + [2]) and many == 3 * ([1] * (2 * q + 2))


@settings(max_examples=25, deadline=None)
@given(runs())
def test_ahead_equals_step_by_step_bitwise(run) -> None:
    """Two passes a step: the second one restores, updates and begins the next step."""
    dtype, chosen = run
    nets = [model(dtype), model(dtype)]
    two, three = (ZOOptimizer(net, perturbation="in_place", **chosen) for net in nets)
    few = swept(two)
    for left in (3, 2, 1, 0):
        two.ahead = left > 0
        two.step(loss_of(nets[0]))
        three.step(loss_of(nets[1]))
        assert two.last == three.last
        assert equal(bits(nets[0]), bits(nets[1])) is (not left)
    q = chosen["directions"]
    assert few == [1] * (2 * q) + 3 * ([3] + [1] * (2 * q - 1)) + [2]


def test_whatever_saves_or_watches_sees_the_weights() -> None:
    net = model()
    optimizer = ZOOptimizer(net, lr=0.0, perturbation="in_place")
    optimizer.step(loss_of(net))
    before = bits(net)
    optimizer.ahead = True
    optimizer.step(loss_of(net))
    assert not equal(bits(net), before)
    state = optimizer.state_dict()
    assert equal(bits(net), before) and state["zoft"]["steps"] == 3 and optimizer.last.flags is Flag.INTERRUPTED
    seen: list[bool] = []
    optimizer.observers.append(lambda step: seen.append(equal(bits(net), before)))
    optimizer.step(loss_of(net))
    assert seen == [True] and equal(bits(net), before)


def test_a_loss_that_raises_after_a_step_ahead(tmp_path) -> None:
    """The way that was begun is gone to its end, and the log tells of it."""
    net = model(torch.bfloat16)
    optimizer = ZOOptimizer(net, lr=0.01, eps=2.0**-8, perturbation="in_place")
    recorder = attach(optimizer, tmp_path / "log")
    optimizer.ahead = True
    optimizer.step(loss_of(net))

    def broken() -> torch.Tensor:
        raise RuntimeError("no memory")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="no memory"):
            optimizer.step(broken)
    optimizer.step(loss_of(net))
    optimizer.settle()
    recorder.close()
    log = TrajectoryLog.read(tmp_path / "log")
    assert [step.evaluations for step in log.steps] == [1, 3, 1]
    assert replay(model(torch.bfloat16), log).space.fingerprint() == optimizer.space.fingerprint()


def test_without_hold_the_weights_are_back_at_once() -> None:
    net = model()
    optimizer = ZOOptimizer(net, lr=0.0, perturbation="in_place")
    optimizer.step(loss_of(net))  # the first cycle settles the weights on their grid
    before = bits(net)
    optimizer.accumulate(loss_of(net))
    assert equal(bits(net), before)
    optimizer.discard()
    optimizer.accumulate(loss_of(net), hold=True)
    assert not equal(bits(net), before)
    optimizer.state_dict()
    assert equal(bits(net), before)
    optimizer.step()
    assert equal(bits(net), before) and (optimizer.steps, optimizer.skipped) == (3, 1)  # one was discarded


@pytest.mark.parametrize("failing", [1, 2])
def test_a_loss_that_raises_leaves_the_weights_as_they_were(failing: int) -> None:
    net = model()
    optimizer = ZOOptimizer(net, lr=0.1, perturbation="in_place")
    optimizer.step(loss_of(net))
    optimizer.accumulate(loss_of(net))  # the grid of the new weights
    optimizer.discard()
    before, calls = bits(net), []

    def loss() -> torch.Tensor:
        calls.append(1)
        if len(calls) == failing:
            raise RuntimeError("no memory")
        return loss_of(net)()

    with pytest.raises(RuntimeError, match="no memory"):
        optimizer.step(loss)
    assert equal(bits(net), before)


def test_what_raises_between_the_losses_and_the_update_leaves_the_weights_as_they_were(monkeypatch) -> None:
    net = model()
    optimizer = ZOOptimizer(net, lr=0.0, perturbation="in_place")
    optimizer.step(loss_of(net))
    before = bits(net)

    def broken(*_):
        raise RuntimeError("no scalar")

    monkeypatch.setattr(optimizer, "_governed", broken)
    with pytest.raises(RuntimeError, match="no scalar"):
        optimizer.step(loss_of(net))
    assert equal(bits(net), before)


def test_a_skipped_step_restores() -> None:
    net = model()
    optimizer = ZOOptimizer(net, lr=0.1, perturbation="in_place")
    optimizer.accumulate(loss_of(net))
    optimizer.discard()
    before = bits(net)
    optimizer.step(lambda: float("nan"))
    assert optimizer.skipped == 2 and equal(bits(net), before)  # the discarded one, and this


@pytest.mark.parametrize(
    ("dtype", "changes", "chosen"),
    [
        (torch.float32, {}, "in_place"),
        (torch.float64, {}, "in_place"),
        (torch.float32, {"eps": 1e-3}, "read_only"),
        (torch.float32, {"distribution": "gaussian"}, "read_only"),
        (torch.bfloat16, {}, "read_only"),
        (torch.float16, {}, "read_only"),
    ],
)
def test_auto_is_the_way_it_names_to_the_last_bit(dtype, changes, chosen) -> None:
    nets = [model(dtype), model(dtype)]
    for net, way in zip(nets, ("auto", chosen), strict=True):
        optimizer = ZOOptimizer(net, lr=1e-2, perturbation=way, weight_rounding="auto", **changes)
        for _ in range(3):
            optimizer.step(loss_of(net))
        assert optimizer.perturbation.name == chosen
    assert equal(bits(nets[0]), bits(nets[1]))
