"""Blocks of layers that differ by orders of magnitude, moved in turn: what one measures does not govern another."""

import pytest
import torch
from torch import nn

from zoft.directions import Blocks, LowRank, RandomMask
from zoft.errors import UsageError
from zoft.estimate import Flag
from zoft.optimizer import ZOOptimizer
from zoft.stability import govern
from zoft.stability.settings import StabilitySettings


def bowl(model: nn.ModuleList) -> torch.Tensor:
    return model[1].weight.double().square().sum() / 2


def layers(count: int, size: int = 16) -> nn.ModuleList:
    torch.manual_seed(0)
    return nn.ModuleList([nn.Linear(size, size, bias=False) for _ in range(count)])


@pytest.mark.parametrize("auto", [False, True])
@pytest.mark.parametrize("rule", ["momentum", "adam"])
def test_momentum_is_held_by_the_steepest_block(rule: str, auto: bool) -> None:
    """Rules with momentum move all blocks in every step: the flat block's learning rate would blow up the other one."""
    model, x = layers(2), torch.eye(16).repeat(2, 1)  # two blocks, traces of 256 times these factors
    with torch.no_grad():
        model[0].weight.add_(100.0)  # large weights: the drift bound is wide

    def loss() -> torch.Tensor:
        flat, steep = (model[0](x) - 100.0).square().sum(1), model[1](x).square().sum(1)
        return 8.0 * (1e-4 * flat + steep)

    optimizer = ZOOptimizer(model, 100.0, eps=2.0**-8, rule=rule, blocks=Blocks(2))
    govern(optimizer, StabilitySettings(stability_auto=auto))
    with torch.no_grad():
        start = float(loss().mean())
    for _ in range(200):
        optimizer.step(loss)
    with torch.no_grad():
        assert float(loss().mean()) < start


@pytest.mark.parametrize("order", ["cyclic", "random"])
def test_a_steep_block_is_not_refused_for_its_own_slopes(order: str) -> None:
    """The loss is linear: nothing ever jumps, but one block's slopes are 30 times the others'."""
    model = layers(12, size=4)
    slopes = [torch.randn(4, 4).double() * (30.0 if i == 0 else 1.0) for i in range(12)]
    with torch.no_grad():
        for layer in model:
            layer.weight.zero_()
    optimizer = ZOOptimizer(model, 1e-7, eps=2.0**-8, blocks=Blocks(12, order), perturbation="in_place")
    govern(optimizer, StabilitySettings(stability="off"))
    for _ in range(600):
        optimizer.step(lambda: 1000.0 + sum((x.weight.double() * g).sum() for x, g in zip(model, slopes, strict=True)))
        assert optimizer.last is not None and Flag.GUARDED not in optimizer.last.flags


def test_a_block_that_jumps_is_refused_and_then_taken_for_a_new_level() -> None:
    """By its own patience, though the other block's steps pass in between."""
    model, steep = layers(2, size=4), [1.0]
    optimizer = ZOOptimizer(model, 1e-9, eps=2.0**-8, blocks=Blocks(2), perturbation="in_place")
    govern(optimizer, StabilitySettings(stability="off", guard_patience=3))
    refused = []
    for step in range(100):
        steep[0] = 1000.0 if step >= 60 else 1.0
        optimizer.step(
            lambda: 1e6 + steep[0] * (model[0].weight - model[0].weight.detach().mean()).double().sum()
            + model[1].weight.double().sum()
        )  # fmt: skip
        assert optimizer.last is not None
        if Flag.GUARDED in optimizer.last.flags:
            refused.append(step)
    assert refused == [60, 62, 64]


@pytest.mark.parametrize("rule", ["sign", "sgd"])
def test_a_bowl_descends_whatever_slopes_beside_it(rule: str) -> None:
    """With sign the bound is 2 E|p| / Tr, and |p| has to be the bowl's own."""
    ends = []
    for slope in (0.01, 100.0):
        model = layers(2)
        g = slope * torch.randn(16, 16)
        with torch.no_grad():
            model[0].weight.fill_(100.0)
            model[1].weight.fill_(0.1)

        optimizer = ZOOptimizer(model, 10.0, eps=2.0**-6, rule=rule, blocks=Blocks(2), perturbation="in_place")
        govern(optimizer, StabilitySettings())
        start = bowl(model).item()
        for _ in range(300):
            optimizer.step(lambda g=g, model=model: (model[0].weight.double() * g).sum() + bowl(model) + 1e6)
        ends.append(bowl(model).item())
        assert ends[-1] < 0.8 * start
    assert ends[1] == pytest.approx(ends[0], rel=0.05)


@pytest.mark.parametrize("rule", ["full_adam", "adamezo"])
@pytest.mark.parametrize("ways", [{"blocks": Blocks(2)}, {"form": RandomMask(0.75, 1)}])
def test_no_bound_is_claimed_where_none_is_known(rule: str, ways: dict) -> None:
    """A weight that moves in few steps has a second moment of its own, far below the mean of all steps'."""
    optimizer = ZOOptimizer(layers(2), 1e-3, distribution="gaussian", rule=rule, **ways)
    with pytest.raises(UsageError, match=r"not known in closed form.*zo_rule=adam, or set stability=off"):
        govern(optimizer, StabilitySettings())
    assert govern(optimizer, StabilitySettings(stability="off")) is not None


def test_muon_moves_no_blocks() -> None:
    with pytest.raises(UsageError, match="zo_rule=muon moves every matrix"):
        ZOOptimizer(layers(2), 1e-2, rule="muon", form=LowRank("low_rank", 2, 2), blocks=Blocks(2))


@pytest.mark.parametrize("kind", ["low_rank", "subspace"])
@pytest.mark.parametrize("rule", ["muon", "sgd"])
def test_an_empty_matrix_is_passed_over(rule: str, kind: str) -> None:
    model, x = nn.Sequential(nn.Linear(6, 6)), torch.randn(5, 6)
    model.empty = nn.Parameter(torch.zeros(0, 4))
    optimizer = ZOOptimizer(model, 1e-2, rule=rule, form=LowRank(kind, 2, 2))
    assert govern(optimizer, StabilitySettings()) is not None
    before = model[0].weight.detach().clone()
    optimizer.step(lambda: model[0](x).square().mean())
    assert not torch.equal(model[0].weight, before)


def test_what_blocks_measured_goes_into_a_checkpoint() -> None:
    def made() -> ZOOptimizer:
        optimizer = ZOOptimizer(layers(3, size=4), 1e-3, eps=2.0**-6, blocks=Blocks(3), rule="sign")
        govern(optimizer, StabilitySettings())
        return optimizer

    def step(optimizer: ZOOptimizer) -> float:
        optimizer.step(lambda: sum((i + 1) ** 3 * x.weight.square().sum(1) for i, x in enumerate(optimizer.model)))  # type: ignore[arg-type]
        assert optimizer.last is not None
        return optimizer.last.lr

    one, other = made(), made()
    for _ in range(20):
        step(one)
    other.model.load_state_dict(one.model.state_dict())
    other.load_state_dict(one.state_dict())
    assert [step(one) for _ in range(9)] == [step(other) for _ in range(9)]


@pytest.mark.parametrize("ways", [{"zo_blocks": 2}, {"zo_shape": "random_mask", "zo_sparsity": 0.5}])
def test_settings_of_a_run_say_so_before_anything_is_loaded(ways: dict) -> None:
    from zoft.trainer.settings import ZOSettings

    with pytest.raises(UsageError, match="not known in closed form"):
        ZOSettings(zo_rule="full_adam", zo_distribution="gaussian", **ways)
    ZOSettings(zo_rule="full_adam", zo_distribution="gaussian", stability="off", **ways)
