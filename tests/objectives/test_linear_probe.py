"""The linear probe: the convex problem is solved, the penalty comes from dev, and padding does not touch a state."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from zoft.linear_probe import PENALTIES, LinearProbe, chosen_probe, hidden_states
from zoft.tasks.collate import Collator

spec = importlib.util.spec_from_file_location("tiny_models", Path(__file__).with_name("conftest.py"))
assert spec is not None and spec.loader is not None
tiny = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)


def points(number, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(number) % 3
    centres = torch.tensor([[2.0, 0.0], [-1.0, 1.7], [-1.0, -1.7]])
    noise = torch.randn(number, 2, generator=generator)
    junk = 10.0 * torch.randn(number, 20, generator=generator)
    return torch.cat([centres[labels] + 0.5 * noise, junk], dim=1), labels


def test_the_fit_is_the_minimum():
    states, labels = points(60, 0)
    probe = LinearProbe.fitted(states, labels, 3, 0.1)
    scaled = (states.double() - states.double().mean(0)) / states.double().std(0, correction=0)
    weight, bias = (part.clone().requires_grad_() for part in (probe.weight, probe.bias))
    loss = functional.cross_entropy(scaled @ weight + bias, labels) + 0.05 * weight.square().sum()
    assert all(part.abs().max() < 1e-5 for part in torch.autograd.grad(loss, [weight, bias]))
    assert torch.allclose(probe(states), scaled @ probe.weight + probe.bias)


def test_dev_chooses_the_penalty_and_the_largest_of_equals():
    train, dev = points(30, 1), points(300, 2)

    def right(penalty):
        return (LinearProbe.fitted(*train, 3, penalty)(dev[0]).argmax(1) == dev[1]).double().mean().item()

    found = {penalty: right(penalty) for penalty in PENALTIES}
    probe, penalty = chosen_probe(train, dev, 3)
    assert penalty == max(p for p in PENALTIES if found[p] == max(found.values()))
    assert (probe(dev[0]).argmax(1) == dev[1]).double().mean().item() == max(found.values()) > min(found.values())
    assert chosen_probe(train, None, 3)[1] == 0.01


@pytest.mark.parametrize("name", ["opt", "llama", "gpt_neox"])
def test_a_state_is_the_last_tokens_and_knows_no_padding(name):
    model, data = tiny.build(name), tiny.one_token_answers()
    together = hidden_states(model, data, Collator(0, 3), batch_size=4)
    for item, state in zip(data, together, strict=True):
        ids = torch.tensor([item.rows[0].ids])
        with torch.no_grad():
            alone = model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0, -1]
        assert torch.allclose(state, alone, atol=1e-5)
