"""Curvature by automatic differentiation: the reference for probes that see losses only. Small models and tests.

Needs a loss with second derivatives (PyTorch's "math" attention kernel has them, the fused ones have not) and
memory for one backward graph, which the rest of zoft never builds.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from zoft.errors import UsageError
from zoft.stability.reading import Reading, trace_reading

Vector = Sequence[Tensor]  # one tensor for each parameter, of its shape


class HessianProducts:
    """v -> H v of one loss at the present weights; the graph of the gradient is built once and used for every product.

    `loss` is called once and returns a scalar that depends on `parameters`. Weights must not change afterwards.
    Raises UsageError when the loss is not a scalar or does not depend on any of them.

    >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> HessianProducts(lambda: 3 * w[0] ** 2 + w[0] * w[1], [w])([torch.tensor([1.0, 0.0])])
    [tensor([6., 1.])]
    """

    def __init__(self, loss: Callable[[], Tensor], parameters: Sequence[Tensor]) -> None:
        self.parameters = list(parameters)
        if not self.parameters or not all(parameter.requires_grad for parameter in self.parameters):
            raise UsageError("HessianProducts needs parameters with requires_grad=True")
        with torch.enable_grad():
            value = loss()
            if value.numel() != 1 or not value.requires_grad:
                raise UsageError(f"the loss must be a scalar that depends on the parameters, got shape {value.shape}")
            self._gradient = torch.autograd.grad(value, self.parameters, create_graph=True, materialize_grads=True)

    def __call__(self, vector: Vector) -> list[Tensor]:
        """H v, one tensor for each parameter [loss / length^2 x unit of v]; exact up to the rounding of the dtype."""
        active = [(g, v) for g, v in zip(self._gradient, vector, strict=True) if g.requires_grad]
        if not active:  # a loss linear in the weights
            return [torch.zeros_like(parameter) for parameter in self.parameters]
        gradient, along = zip(*active, strict=True)
        return list(
            torch.autograd.grad(
                gradient, self.parameters, grad_outputs=along, retain_graph=True, materialize_grads=True
            )
        )

    def quadratic_form(self, vector: Vector) -> float:
        """v' H v, summed in float64: what the probe (P1) along v tends to as its radius goes to zero."""
        return _inner(vector, self(vector))


def hutchinson_trace(products: HessianProducts, directions: Sequence[Vector]) -> Reading:
    """Mean of z' H z over directions with E[z z'] = I, as a reading of Tr(H); equations (P2), (P3).

    Unbiased, exact on every direction: radius and noise floor of the reading are 0. With the same seeded directions
    as a loss-only probe the two agree one by one, up to O(mu^2) and rounding.
    """
    values = [products.quadratic_form(direction) for direction in directions]
    exact = trace_reading(values, radius=1.0)
    return Reading("trace", exact.value, exact.standard_error, noise_floor=0.0, radius=0.0, probes=exact.probes)


def lambda_max(products: HessianProducts, iterations: int = 1000, tolerance: float = 1e-6, seed: int = 0) -> float:
    """The largest eigenvalue l_1 (algebraically) [loss / length^2] by power iteration on Hessian-vector products.

    Plain iteration finds the eigenvalue of largest modulus. When that one, m, is negative, a second run on H + |m|
    I, which is positive semi-definite, finds l_1. Stops when the residual ||H v - l v|| falls below tolerance x
    |m|; some eigenvalue then lies within that distance. Raises UsageError when `iterations` do not reach it: two
    eigenvalues are too close.
    """
    dominant = _power_iteration(products, 0.0, iterations, tolerance, seed)
    if dominant >= 0.0:
        return dominant
    return _power_iteration(products, -dominant, iterations, tolerance, seed)


def _power_iteration(products: HessianProducts, shift: float, iterations: int, tolerance: float, seed: int) -> float:
    """Eigenvalue of H whose distance from -shift is largest."""
    vector = _random_unit(products.parameters, seed)
    for _ in range(iterations):
        image = products(vector)
        value = _inner(vector, image)
        residual = [image_part - value * part for image_part, part in zip(image, vector, strict=True)]
        if _inner(residual, residual) ** 0.5 <= tolerance * max(abs(value), shift):
            return value
        moved = [image_part + shift * part for image_part, part in zip(image, vector, strict=True)]
        norm = _inner(moved, moved) ** 0.5
        vector = [part / norm for part in moved]
    raise UsageError(
        f"power iteration did not reach tolerance {tolerance:g} in {iterations} products; raise iterations or tolerance"
    )


def _random_unit(parameters: Sequence[Tensor], seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    draw = [torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p) for p in parameters]
    norm = _inner(draw, draw) ** 0.5
    return [part / norm for part in draw]


def _inner(a: Vector, b: Vector) -> float:
    return sum(float((x.detach().double() * y.detach().double()).sum()) for x, y in zip(a, b, strict=True))
