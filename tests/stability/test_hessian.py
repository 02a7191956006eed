"""The autograd reference against dense linear algebra and against probes from losses."""

import math

import pytest
import torch

from zoft.errors import UsageError
from zoft.stability.hessian import HessianProducts, hutchinson_trace, lambda_max
from zoft.stability.reading import second_difference


def full_hessian(products: HessianProducts) -> torch.Tensor:
    """H as a [d, d] matrix, symmetrised, parameters flattened and joined in order. d products: for tiny networks."""
    columns = []
    for index, parameter in enumerate(products.parameters):
        for element in range(parameter.numel()):
            unit = [torch.zeros_like(p) for p in products.parameters]
            unit[index].view(-1)[element] = 1.0
            columns.append(torch.cat([part.reshape(-1) for part in products(unit)]))
    matrix = torch.stack(columns)
    return 0.5 * (matrix + matrix.T)


@pytest.fixture
def network() -> tuple[list[torch.Tensor], HessianProducts]:
    """A tanh network of 43 weights in float64 and its Hessian, which is indefinite at random weights."""
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((5, 6), (6,), (1, 5), (2,))]
    for weight in weights:
        weight.requires_grad_(True)
    return weights, HessianProducts(lambda: loss(weights), weights)


def loss(weights: list[torch.Tensor]) -> torch.Tensor:
    """Mean squared error on 20 fixed points; the last weight enters linearly and its square not at all."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn((20, 6), generator=generator, dtype=torch.float64)
    hidden = torch.tanh((x * weights[1]) @ weights[0].T)
    return ((hidden @ weights[2].T)[:, 0] - x[:, 0]).pow(2).mean() / 2 + weights[3].sum()


def signs(weights: list[torch.Tensor], seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 2, w.shape, generator=generator).double() * 2 - 1 for w in weights]


def test_products_are_the_columns_of_the_dense_hessian(network) -> None:
    weights, products = network
    flat = torch.cat([w.detach().reshape(-1) for w in weights])
    sizes = [w.numel() for w in weights]

    def at(point: torch.Tensor) -> torch.Tensor:
        return loss([part.view(w.shape) for part, w in zip(point.split(sizes), weights, strict=True)])

    expected = torch.autograd.functional.hessian(at, flat)
    torch.testing.assert_close(full_hessian(products), expected, rtol=1e-10, atol=1e-12)


def test_trace_by_hutchinson(network) -> None:
    weights, products = network
    matrix = full_hessian(products)
    reading = hutchinson_trace(products, [signs(weights, seed) for seed in range(400)])
    variance = 2 * float((matrix**2).sum() - (matrix.diagonal() ** 2).sum())
    assert abs(reading.value - float(matrix.trace())) < 4 * math.sqrt(variance / 400)
    assert reading.standard_error == pytest.approx(math.sqrt(variance / 400), rel=0.2)


def test_top_eigenvalue(network) -> None:
    _, products = network
    assert lambda_max(products) == pytest.approx(float(torch.linalg.eigvalsh(full_hessian(products))[-1]), rel=1e-5)


def test_top_eigenvalue_where_the_most_negative_one_dominates() -> None:
    curvatures = torch.tensor([-9.0, 0.5, 4.0])
    w = torch.zeros(3, requires_grad=True)
    assert lambda_max(HessianProducts(lambda: (curvatures * w**2).sum() / 2, [w])) == pytest.approx(4.0, rel=1e-5)


def test_a_probe_from_three_losses_tends_to_the_quadratic_form(network) -> None:
    """(P1): the difference falls as mu^2."""
    weights, products = network
    direction = signs(weights, seed=7)
    exact = products.quadratic_form(direction)
    with torch.no_grad():
        errors = []
        for mu in (2e-3, 1e-3):
            plus, minus = ([w + s * mu * z for w, z in zip(weights, direction, strict=True)] for s in (1, -1))
            c = second_difference(float(loss(plus)), float(loss(minus)), float(loss(weights)), mu)
            errors.append(abs(c - exact))
    assert errors[1] < 1e-2 * abs(exact)
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.05)


def test_polarised_probes_in_a_subspace_bound_the_top_eigenvalue_from_below(network) -> None:
    """(P8), on the quadratic form itself."""
    weights, products = network
    matrix = full_hessian(products)
    z = torch.stack([torch.cat([part.reshape(-1) for part in signs(weights, seed)]) for seed in range(12)])

    def form(v: torch.Tensor) -> torch.Tensor:
        return v @ matrix @ v

    inner = torch.stack([torch.stack([(form(a + b) - form(a - b)) / 4 for b in z]) for a in z])
    torch.testing.assert_close(inner, z @ matrix @ z.T, rtol=1e-9, atol=1e-9)
    root = torch.linalg.inv(torch.linalg.cholesky(z @ z.T))
    ritz = float(torch.linalg.eigvalsh(root @ inner @ root.T)[-1])
    assert 0.0 < ritz <= lambda_max(products)


def test_errors() -> None:
    w = torch.ones(2, requires_grad=True)
    with pytest.raises(UsageError, match="requires_grad"):
        HessianProducts(lambda: w.sum(), [torch.ones(2)])
    with pytest.raises(UsageError, match="scalar"):
        HessianProducts(lambda: w, [w])
    with pytest.raises(UsageError, match="raise iterations"):
        lambda_max(HessianProducts(lambda: w[0] ** 2 + 1.001 * w[1] ** 2, [w]), iterations=3)
    assert HessianProducts(lambda: w.sum(), [w])([w])[0].tolist() == [0.0, 0.0]
