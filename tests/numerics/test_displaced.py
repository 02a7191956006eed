"""The perturbation reaches the norms of 16-bit models, and where it does not reach a weight that is said."""

import logging
import math

import pytest
import torch
from torch import nn

from zoft.backends import Term
from zoft.directions import Direction, draw
from zoft.displaced import report_too_large, too_large
from zoft.optimizer import ZOOptimizer
from zoft.perturb import ReadOnly, evaluation_mode
from zoft.space import ParameterSpace

EPS = 2.0**-10
IDS = torch.randint(4, 50, (64, 24), generator=torch.Generator().manual_seed(1))


def transformer(kind: str, dtype: torch.dtype) -> nn.Module:
    """Two layers whose norms are trained; their weights are 1."""
    import transformers as hf

    size = {
        "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "pad_token_id": 1,
        "max_position_embeddings": 32,
    }  # fmt: skip
    torch.manual_seed(0)
    if kind == "opt":
        model = hf.OPTForCausalLM(hf.OPTConfig(ffn_dim=32, word_embed_proj_dim=16, init_std=0.15, **size))
    else:
        config = hf.LlamaConfig(intermediate_size=32, num_key_value_heads=1, initializer_range=0.15, **size)
        model = hf.LlamaForCausalLM(config)
    model = model.to(torch.bfloat16).to(dtype)
    for name, weight in model.named_parameters():
        weight.requires_grad_("norm" in name)
    return model


def slopes(model: nn.Module, count: int) -> torch.Tensor:
    """Projected gradients along `count` directions."""
    perturbation, found = ReadOnly(ParameterSpace(model)), []
    with evaluation_mode(model):
        for step in range(count):
            z = Direction(seed=3, step=step)
            plus, minus = perturbation.losses(
                [(Term(z, EPS),), (Term(z, -EPS),)], lambda: model(input_ids=IDS, labels=IDS).loss.item()
            )
            found.append((plus - minus) / (2.0 * EPS))
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("kind", ["opt", "llama"])
def test_slopes_of_norms_in_bfloat16_are_those_in_float32(kind: str) -> None:
    """Regressed on float32's, within three standard errors of 1; without float32 norms Llama's are 0."""
    narrow, exact = (slopes(transformer(kind, dtype), 64) for dtype in (torch.bfloat16, torch.float32))
    ratio = float(narrow @ exact / (exact @ exact))
    error = float((narrow - ratio * exact).norm() / exact.norm()) / math.sqrt(len(exact) - 1)
    assert error < 0.2 and abs(ratio - 1.0) < 3.0 * error


@pytest.mark.parametrize("kind", ["opt", "llama"])
def test_every_norm_weight_is_displaced_and_left(kind: str) -> None:
    model = transformer(kind, torch.bfloat16)
    space, z = ParameterSpace(model), Direction(seed=3, step=5)
    before = {slot.name: slot.weight.detach().clone() for slot in space.slots}
    norms = {slot.owners[0][0]: slot for slot in space.slots if slot.name.endswith("norm.weight")}
    assert len(norms) == 5
    seen: dict[str, torch.Tensor] = {}

    def loss() -> torch.Tensor:  # hooks that are registered now run behind the view's
        hooks = [
            norm.register_forward_pre_hook(lambda m, _: seen.update({norms[m].name: m.weight.clone()}))
            for norm in norms
        ]
        logits = model(input_ids=IDS).logits
        for hook in hooks:
            hook.remove()
        return logits

    with evaluation_mode(model):
        ReadOnly(space).losses([(Term(z, EPS),)], loss)
    for slot in norms.values():
        shown = seen[slot.name]
        assert torch.equal(shown, before[slot.name].float() + EPS * draw(z, slot.window).reshape(shown.shape))
    for slot in space.slots:
        assert torch.equal(slot.weight.view(torch.int16), before[slot.name].view(torch.int16))


def test_the_centre_takes_the_same_path() -> None:
    """A displacement of 0 and the centre itself give the same bits; the plain forward, which rounds earlier, others."""
    model = transformer("llama", torch.bfloat16)
    perturbation = ReadOnly(ParameterSpace(model))
    with torch.no_grad():
        model.model.norm.weight.fill_(1.3)
    with evaluation_mode(model):
        nothing = (Term(Direction(seed=0, step=0), 0.0),)
        centre, around = perturbation.losses([(), nothing], lambda: model(input_ids=IDS).logits)
        assert torch.equal(centre, around) and not torch.equal(centre, model(input_ids=IDS).logits)
        assert centre.dtype is torch.bfloat16


def test_a_float32_model_is_left_alone() -> None:
    model = transformer("llama", torch.float32)
    with evaluation_mode(model):
        centre = ReadOnly(ParameterSpace(model)).losses([()], lambda: model(input_ids=IDS).logits)[0]
        assert torch.equal(centre, model(input_ids=IDS).logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_edge_is_where_rounding_takes_the_step_away(dtype: torch.dtype) -> None:
    grid = torch.linspace(-8.0, 8.0, 4001).to(dtype)
    moved = (grid.float() + EPS).to(dtype) != grid
    back = (grid.float() - EPS).to(dtype) != grid
    edge = 2.0 * EPS / torch.finfo(dtype).eps
    assert bool((moved & back)[grid.abs() < edge].all())
    assert not (moved & back)[grid.abs() >= 2.0 * edge].any()
    assert too_large(grid, EPS) == int((grid.abs() >= edge).sum())


@pytest.mark.parametrize("perturbation", ["read_only", "in_place"])
@pytest.mark.filterwarnings("ignore:perturbation=in_place")
def test_large_weights_are_counted_once(perturbation: str, caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Linear(8, 8, bias=False).to(torch.bfloat16)
    with torch.no_grad():
        model.weight.fill_(0.1)
        model.weight[:2] = 0.75
    optimizer = ZOOptimizer(model, lr=0.0, perturbation=perturbation)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            optimizer.step(lambda: model(torch.ones(1, 8, dtype=torch.bfloat16)).float().sum())
    assert caplog.text.count("25 % of the 16-bit weights are so large (0.25 or more in torch.bfloat16)") == 1


def test_few_large_weights_are_not_worth_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    weight = torch.full((2000,), 0.01, dtype=torch.bfloat16)
    weight[0] = 3.0
    assert report_too_large([weight, torch.ones(5)], EPS) == 1 / 2000 and not caplog.text


def test_a_16_bit_loss_is_said() -> None:
    model = nn.Linear(4, 4).to(torch.bfloat16)
    optimizer = ZOOptimizer(model, lr=0.0)
    with pytest.warns(UserWarning, match=r"the loss came as torch\.bfloat16"):
        optimizer.step(lambda: model(torch.ones(1, 4, dtype=torch.bfloat16)).square().mean())
