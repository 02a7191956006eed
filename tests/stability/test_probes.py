"""Probes from losses against Hessian-vector products along the same seeded directions, on a small transformer.

With a smooth activation: across the kinks of a ReLU a loss does bend, which a second derivative at one point does not see.
"""

import pytest
import torch

from zoft.directions import Distribution, draw
from zoft.errors import UsageError
from zoft.stability.hessian import HessianProducts, lambda_max
from zoft.stability.probes import Prober
from zoft.stability.theory import noise_floor


def transformer(dtype: torch.dtype = torch.float32):
    from transformers import OPTConfig, OPTForCausalLM

    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=50, hidden_size=16, ffn_dim=32, num_hidden_layers=2, num_attention_heads=2, init_std=0.15,
        max_position_embeddings=32, word_embed_proj_dim=16, attn_implementation="eager", dropout=0.0,
        activation_function="gelu",
    )  # fmt: skip
    model = OPTForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(40):  # away from the start, where curvature has both signs
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.to(dtype)


IDS = torch.randint(4, 50, (8, 12), generator=torch.Generator().manual_seed(1))


def prober_of(model) -> Prober:
    return Prober(model, lambda: model(input_ids=IDS, labels=IDS).loss)


@pytest.mark.parametrize("distribution", [Distribution.RADEMACHER, Distribution.GAUSSIAN])
def test_each_probe_agrees_with_the_exact_product(distribution) -> None:
    """To 1 %, to four standard deviations of rounding, or to the O(mu^2) that a half radius reveals."""
    model = transformer()
    prober = prober_of(model)
    radius, noise = prober.settle(2.0**-10)
    directions = prober.directions(8, distribution)
    measured = prober.probe(directions, radius, noise).values
    products = HessianProducts(lambda: model(input_ids=IDS, labels=IDS).loss, list(model.parameters()))
    slots = {id(slot.weight): slot for slot in prober.space.slots}
    for direction, value in zip(directions, measured, strict=True):
        vector = [draw(direction, slots[id(weight)].window).reshape(weight.shape) for weight in products.parameters]
        exact = products.quadratic_form(vector)
        assert abs(value - exact) <= max(0.01 * abs(exact), 4.0 * noise_floor(noise, radius))


def test_the_mean_of_many_probes_has_a_standard_error_of_five_percent() -> None:
    model = transformer()
    prober = prober_of(model)
    radius, noise = prober.settle(2.0**-10)
    reading = prober.probe(prober.directions(256), radius, noise).trace
    assert reading.interpretable and reading.standard_error <= 0.05 * reading.value


def test_gaussian_probes_bracket_the_top_eigenvalue_and_polarisation_stays_below_it() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4, dtype=torch.float64), torch.nn.Linear(4, 1, dtype=torch.float64))
    inputs = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def loss() -> torch.Tensor:
        return (model(inputs).squeeze(-1) - inputs.sum(-1)).square().mean()

    prober = Prober(model, loss)
    exact = lambda_max(HessianProducts(loss, list(model.parameters())))
    few = prober.lambda_max_below(prober.directions(4), 1e-4)
    all_of_it = prober.lambda_max_below(
        prober.directions(21, Distribution.GAUSSIAN), 1e-4
    )  # 21 weights: the whole space
    assert few <= exact * (1 + 1e-6)
    assert all_of_it == pytest.approx(exact, rel=1e-3)


def test_bfloat16_is_stated_as_it_is() -> None:
    """Rounded weights and activations: the noise of a loss is found to be 1e4 times that of float32, the radius grows,
    and the trace agrees with that of the float32 model within its error."""
    model = transformer(torch.bfloat16)
    prober = prober_of(model)
    exact = prober_of(transformer())
    truth = exact.probe(exact.directions(16), *exact.settle(2.0**-10)).trace
    radius, noise = prober.settle(2.0**-10)
    reading = prober.probe(prober.directions(16), radius, noise).trace
    assert radius > 2.0**-10 and noise > 1e3 * exact.settle(2.0**-10)[1]
    error = (reading.noise_floor**2 + reading.standard_error**2 + truth.standard_error**2) ** 0.5
    assert reading.interpretable and abs(reading.value - truth.value) <= 4.0 * error


def test_nothing_but_rounding_is_refused() -> None:
    model = torch.nn.Linear(4, 1)
    noise = torch.Generator().manual_seed(0)
    prober = Prober(model, lambda: model(torch.ones(1, 4)).sum() + torch.randn((), generator=noise))
    with pytest.raises(UsageError, match="no curvature rises above the rounding noise"):
        prober.settle(2.0**-10)
