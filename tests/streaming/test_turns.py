"""A step's losses take turns: a block is brought in once for all of them, and each is what it is alone."""

from __future__ import annotations

import copy
import threading
from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn

from tests.streaming.conftest import decoder, losses, same, weights
from zoft.optimizer import ZOOptimizer
from zoft.streaming.turns import Turns


def entries(made: Any) -> Counter[int]:
    """Counts how often each block is brought in from now on."""
    count: Counter[int] = Counter()
    enter = made.carrier.enter

    def counted(number: int, following: int | None) -> None:
        count[number] += 1
        enter(number, following)

    made.carrier.enter = counted
    return count


@pytest.mark.parametrize("directions", [1, 3])
def test_a_block_is_brought_in_once_for_all_losses_and_once_for_the_update(way, directions) -> None:
    plain, moved = decoder(), decoder()
    made = way(moved)
    count = entries(made)
    assert losses(moved, steps=4, directions=directions)[1] == losses(plain, steps=4, directions=directions)[1]
    assert same(weights(moved), weights(plain))
    assert count == dict.fromkeys(range(5), 4 * 2)


class Noisy(nn.Module):
    """A block that draws random numbers, and a root with a weight of its own that runs the blocks in the end."""

    def __init__(self, own: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))
        self.gain = nn.Parameter(torch.full((16,), 0.5)) if own else None

    def forward(self, input_ids, labels):
        hidden = self.embed(input_ids)
        for layer in self.layers:
            hidden = torch.tanh(layer(hidden)) + 0.1 * torch.rand_like(hidden)
            if self.training:
                raise AssertionError("evaluation mode holds for every loss")
        hidden = hidden if self.gain is None else hidden * self.gain
        return type("Output", (), {"loss": hidden.square().mean()})


@pytest.mark.parametrize("own", [False, True], ids=["plain", "root-with-a-weight"])
def test_random_numbers_and_flags_are_those_of_each_loss_alone(way, own) -> None:
    torch.manual_seed(0)
    plain = Noisy(own).train()
    moved = copy.deepcopy(plain)
    count = entries(way(moved))
    found = []
    for model in (plain, moved):
        torch.manual_seed(5)
        found.append((losses(model, directions=2)[1], torch.rand(1).item(), model.training))
    assert found[0] == found[1] and found[0][2]
    assert same(weights(moved), weights(plain))
    if not own:
        assert set(count.values()) == {6}, "three steps: once for four losses, once for the update"


def test_losses_whose_paths_part(way) -> None:
    """Each runs the model as often as its own numbers say."""

    def found(model: nn.Module) -> list[float | None]:
        optimizer = ZOOptimizer(model, lr=1e-3, seed=3, eps=0.05, directions=2)
        ids = torch.arange(4, 30).view(2, 13)
        times = []

        def loss() -> torch.Tensor:
            value = model(input_ids=ids, labels=ids).loss
            more = int(value.item() * 1000) % 3
            times.append(more)
            for _ in range(more):
                value = value + model(input_ids=ids.flip(0), labels=ids).loss
            return value

        result = [optimizer.step(loss) for _ in range(3)]
        assert len(set(times)) > 1, times
        return result

    plain, moved = decoder(), decoder()
    way(moved)
    assert found(moved) == found(plain) and same(weights(moved), weights(plain))


def test_a_loss_that_fails_ends_the_others_and_leaves_the_weights(way) -> None:
    plain, moved = decoder(), decoder()
    way(moved)
    optimizer = ZOOptimizer(moved, lr=1e-3, seed=3, directions=2)
    ids = torch.arange(4, 30).view(2, 13)
    calls = []

    def failing() -> torch.Tensor:
        calls.append(len(calls))
        number = calls[-1]
        loss = moved(input_ids=ids, labels=ids).loss
        if number == 2:
            raise FloatingPointError("the third one")
        return loss

    before = weights(moved)
    with pytest.raises(FloatingPointError, match="the third one"):
        optimizer.step(failing)
    optimizer.discard()
    assert same(weights(moved), before) and len(calls) == 4
    assert losses(moved)[1] == losses(plain)[1] and same(weights(moved), weights(plain))


def test_what_holds_for_a_thread_holds_for_every_loss(way) -> None:
    plain, moved = decoder(), decoder()
    way(moved)
    found = []
    for model in (plain, moved):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found.append(losses(model, steps=2)[1])
    assert found[0] == found[1]
    seen = Turns(lambda number: None, lambda number: None).run(
        [lambda: (torch.is_grad_enabled(), torch.get_num_threads(), threading.current_thread().name)] * 2,
        lambda: lambda: None,
    )
    here = (torch.is_grad_enabled(), torch.get_num_threads())
    assert [some[:2] for some in seen] == [here, here] and seen[0][2] != seen[1][2]
