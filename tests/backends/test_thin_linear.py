"""Products with matrices displaced along thin factors: against the dense displacement in float64."""

from typing import Any

import pytest
import torch

from zoft.backends import Point, Target, Term, backend
from zoft.backends.shaped import ShapedBackend
from zoft.directions import Direction, LowRank, Window, draw
from zoft.errors import UsageError

FORMS = [LowRank("low_rank", 1), LowRank("low_rank", 2, 3), LowRank("subspace", 3, 2)]
ROWS, COLUMNS = 40, 12
WINDOW = Window.whole(5, (ROWS, COLUMNS))


def dense(weight: torch.Tensor, point: Point) -> torch.Tensor:
    """W + Z in float64."""
    bent = weight.double()
    for term in point:
        bent = bent + term.scale * draw(term.direction, WINDOW).double()
    return bent


def drawn(name: str, dtype: torch.dtype) -> tuple[ShapedBackend, Any, torch.Tensor, torch.Tensor]:
    """A backend, a generator, and from it a weight and a bias."""
    generator: Any = torch.Generator().manual_seed(0)
    weight, bias = (torch.randn(*shape, generator=generator).to(dtype) for shape in ((ROWS, COLUMNS), (ROWS,)))
    return ShapedBackend(backend(name)), generator, weight, bias


def populations(form: LowRank) -> list[list[Point]]:
    """Both signs and the centre; points that grow by a term a step; members of which each has a direction of its own."""
    z = [Direction(3, step, 0, form=form) for step in range(12)]
    grows = [[tuple(Term(d, 0.01 * (1 + d.step)) for d in z[:count])] for count in (1, 2, 3, 7, 8, 2)]
    apart = [(Term(d, 0.1 + d.step), Term(z[0], 0.5)) for d in z[1:]]
    return [[(Term(z[0], 0.125),), (Term(z[0], -0.125),), ()], *grows, [*apart, ()], [()]]


@pytest.mark.parametrize("name", ["reference", "cpu"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_products_are_those_of_the_dense_matrices(form: LowRank, dtype: torch.dtype, name: str) -> None:
    """Tables are added to, replaced and left out, population after population."""
    ops, generator, weight, bias = drawn(name, dtype)
    target, few = Target(weight, WINDOW), torch.tensor([1, 7])
    exact = {torch.float64: 1e-6, torch.float32: 1e-6, torch.bfloat16: 2.0**-6}[dtype]
    for points in populations(form):
        x = torch.randn(len(points), 2, 3, COLUMNS, generator=generator).to(dtype)
        bent = torch.stack([dense(weight, point) for point in points]).transpose(1, 2).unsqueeze(1)
        wanted, own = x.double() @ bent, torch.stack([bias * i for i in range(len(points))])
        size = wanted.abs().max()
        for added, given in ((0.0, None), (bias, bias), (own.view(-1, 1, 1, ROWS), own)):
            found = ops.thin_linear(x, target, points, given)
            assert found.shape == wanted.shape and found.dtype is dtype
            assert (found.double() - wanted - added).abs().max() < exact * (size + bias.abs().max() * len(points))
        found = ops.thin_linear(x, target, points, bias[few], few)
        assert (found.double() - (wanted + bias)[..., few]).abs().max() < exact * (size + bias.abs().max())


@pytest.mark.parametrize("name", ["reference", "cpu"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_what_is_looked_up_beforehand_gives_the_same_bits(form: LowRank, dtype: torch.dtype, name: str) -> None:
    """For inputs of several lengths, none among them."""
    ops, generator, weight, bias = drawn(name, dtype)
    target = Target(weight, WINDOW)
    for points in populations(form):
        for given in (None, bias):
            ready = ops.thin_ready(target, points, given)
            for shape in ((2, 3), (1,), (0,), (5, 2)):
                x = torch.randn(len(points), *shape, COLUMNS, generator=generator).to(dtype)
                assert torch.equal(ready(x), ops.thin_linear(x, target, points, given))


@pytest.mark.parametrize("name", ["reference", "cpu"])
def test_a_bias_of_another_type_is_refused(name: str) -> None:
    weight = torch.zeros(ROWS, COLUMNS, dtype=torch.bfloat16)
    points = [(Term(Direction(3, 0, 0, form=FORMS[0]), 0.1),)]
    ready = ShapedBackend(backend(name)).thin_ready(Target(weight, WINDOW), points, torch.zeros(ROWS))
    with pytest.raises(UsageError, match="one dtype"):
        ready(torch.zeros(1, 2, COLUMNS, dtype=torch.bfloat16))
