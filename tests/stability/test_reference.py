"""What drift is measured against, on real adapters: the matrices beneath them count, and (17a) says how far those move."""

import math

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from zoft.optimizer import ZOOptimizer
from zoft.space import ParameterSpace
from zoft.stability import StabilitySettings, govern
from zoft.stability.reference import reference_norm

WIDTH, HEIGHT, RANK, SCALE = 300, 48, 4, 2.0  # n, m, r, s; more columns than are taken at once of a quantised layer


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(WIDTH, HEIGHT), nn.Linear(HEIGHT, 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.outer(torch.tanh(self.inner(inputs))).squeeze(-1)


def adapted() -> PeftModel:
    torch.manual_seed(0)
    config = LoraConfig(r=RANK, lora_alpha=int(SCALE * RANK), target_modules=["inner"], lora_dropout=0.0)
    return get_peft_model(Network(), config)


def merged(model: PeftModel) -> torch.Tensor:
    layer = model.base_model.model.inner
    return (layer.base_layer.weight + layer.get_delta_weight("default")).detach()


def test_all_weights_are_measured_against_themselves() -> None:
    torch.manual_seed(0)
    model = Network()
    space = ParameterSpace(model)
    assert reference_norm(model, space) == space.norm()
    model.outer.requires_grad_(False)  # frozen, with no adapter on it: it is not displaced
    space = ParameterSpace(model)
    assert reference_norm(model, space) == space.norm()


def test_a_frozen_matrix_counts_once_and_only_under_an_adapter_that_is_trained() -> None:
    model = adapted()
    layer = model.base_model.model.inner
    norm = float(layer.base_layer.weight.double().norm())
    space = ParameterSpace(model)
    assert norm > 2.0 * space.norm() > 0.0
    assert reference_norm(model, space) == pytest.approx(math.hypot(norm, space.norm()))
    model.base_model.model.twin = layer
    assert reference_norm(model, space) == pytest.approx(math.hypot(norm, space.norm()))
    layer.requires_grad_(False)
    model.base_model.model.outer.requires_grad_(True)
    space = ParameterSpace(model)
    assert reference_norm(model, space) == space.norm()


@pytest.mark.parametrize("begun", [0.0, 0.05])
def test_how_far_a_step_in_the_adapter_takes_the_weights(begun) -> None:
    """(17a), against the merged matrix before and after: mean over 20 directions within 3 standard errors and 1 %."""
    model = adapted()
    layer = model.base_model.model.inner
    down, up = layer.lora_A["default"].weight.detach(), layer.lora_B["default"].weight.detach()
    draw = torch.Generator().manual_seed(1)
    up.copy_(begun * torch.randn(up.shape, generator=draw))
    size, start, size_of_step = RANK * (WIDTH + HEIGHT), merged(model), 1e-3
    squares = []
    for _ in range(20):
        steps = [size_of_step * torch.randn(weight.shape, generator=draw) for weight in (down, up)]
        for weight, step in zip((down, up), steps, strict=True):
            weight.add_(step)
        squares.append(float((merged(model) - start).double().square().sum()) / size_of_step**2 / size)
        for weight, step in zip((down, up), steps, strict=True):
            weight.sub_(step)
    said = SCALE**2 * float(HEIGHT * down.square().sum() + WIDTH * up.square().sum()) / size
    mean, error = sum(squares) / 20, float(torch.tensor(squares).std()) / math.sqrt(20)
    assert mean == pytest.approx(said, abs=3.0 * error + 0.01 * said)
    if not begun:
        assert said == pytest.approx(SCALE**2 * HEIGHT / (3 * (WIDTH + HEIGHT)), rel=0.1)


def test_a_capped_run_of_an_adapter_moves_a_share_of_the_weights_beneath_it() -> None:
    """Asked for far too much, the first step is as long as the share of the base allows, and longer than that of A."""
    model = adapted()
    space = ParameterSpace(model)
    alone, whole = space.norm(), reference_norm(model, space)
    optimizer = ZOOptimizer(model, lr=1e3)
    govern(optimizer, StabilitySettings(stability_margin=None, stability_descent_margin=None, stability_drift=0.02))
    inputs = torch.randn(16, WIDTH, generator=torch.Generator().manual_seed(2))
    before = [weight.detach().clone() for weight in model.parameters() if weight.requires_grad]
    optimizer.step(lambda: (model(inputs) - 1.0).square())
    after = [weight.detach() for weight in model.parameters() if weight.requires_grad]
    moved = math.sqrt(sum(float((b - a).double().square().sum()) for a, b in zip(before, after, strict=True)))
    assert moved == pytest.approx(0.02 * whole, rel=1e-4) and moved > 2.0 * 0.02 * alone


@pytest.mark.filterwarnings("ignore:MatMul8bitLt")
@pytest.mark.parametrize(("kind", "tolerance"), [("Linear8bitLt", 0.01), ("LinearNF4", 0.05)])
def test_a_quantised_matrix_is_measured_by_what_it_does(kind, tolerance) -> None:
    """Its numbers are codes. Against the matrix before it was quantised, within the format's own rounding."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    model = adapted()
    layer = model.base_model.model.inner
    plain, norm = layer.base_layer, reference_norm(model, ParameterSpace(model))
    options = {"has_fp16_weights": False} if kind == "Linear8bitLt" else {}
    coded = getattr(bitsandbytes.nn, kind)(WIDTH, HEIGHT, **options)
    coded.load_state_dict(plain.state_dict())
    layer.base_layer = coded.to("cpu").requires_grad_(False)
    assert not coded.weight.is_floating_point()
    assert reference_norm(model, ParameterSpace(model)) == pytest.approx(norm, rel=tolerance)
