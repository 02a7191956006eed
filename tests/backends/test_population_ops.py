"""dot, panel_pair, perturbed_linear and perturbed_embedding: the definitions, against float64 and against `axpby_`."""

import pytest
import torch

from zoft.backends import Move, Rounding, Target, Term, available, backend
from zoft.directions import Direction, Distribution, Window, draw
from zoft.errors import UsageError

NAMES = [name for name in available() if name != "triton"]  # whose tests are tests/kernels
NARROW = (torch.bfloat16, torch.float16)


def random(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.float64) * 0.05).to(
        dtype
    )


def population(distribution: Distribution, eps: float = 2.0**-6) -> list[tuple[Term, ...]]:
    z = Direction(3, 1, 0, distribution)
    return [(Term(z, eps),), (Term(z, -eps),), ()]


def displaced(name: str, target: Target, point: tuple[Term, ...]) -> torch.Tensor:
    out = torch.empty_like(target.weight)
    backend(name).axpby_(Target(target.weight, target.window, out=out), [Move(point)])
    return out


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("distribution", Distribution)
@pytest.mark.parametrize("shape", [(), (1,), (257,), (130, 3), (5, 129), (3, 90, 20), (0, 4)], ids=str)
def test_dot(name, distribution, shape) -> None:
    """Every product is within half a unit of its last place, and every sum along the longest path of additions."""
    weight, direction = random(*shape), Direction(3, 1, 0, distribution)
    window = Window.whole(77, weight.shape)
    mine = backend(name).dot(Target(weight, window), direction)
    if weight.numel() == 0:
        assert mine == 0
        return
    products = weight.double().reshape(window.shape) * draw(direction, window).double()
    additions = 128 + max(1, weight.numel()).bit_length()
    assert mine.shape == () and mine.dtype is torch.float32
    assert abs(float(mine) - float(products.sum())) <= (additions + 1) * 2.0**-24 * float(products.abs().sum())


@pytest.mark.parametrize("name", NAMES)
def test_dot_reads_the_residual_bits_and_one_order_is_for_all(name) -> None:
    single = random(300, 40)
    bits = single.view(torch.int32)
    high = (bits + 0x8000) >> 16
    weight, residual = high.to(torch.int16).view(torch.bfloat16), (bits - (high << 16)).to(torch.int16)
    window, direction = Window.whole(5, single.shape), Direction(0, 0)
    whole = backend("reference").dot(Target(single, window), direction)
    assert torch.equal(backend(name).dot(Target(single, window), direction), whole)
    assert torch.equal(backend(name).dot(Target(weight, window, residual=residual), direction), whole)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rounding", Rounding)
def test_panel_pair_is_the_update_and_then_the_copies(name, rounding) -> None:
    weight = random(200, 24, dtype=torch.bfloat16)
    window = Window.whole(9, weight.shape)
    residual = None if rounding.residual_dtype is None else torch.zeros(weight.shape, dtype=rounding.residual_dtype)
    mine, mine_low = weight.clone(), None if residual is None else residual.clone()
    points = population(Distribution.RADEMACHER)
    update = [Move((Term(Direction(3, 0), 1e-3),), 0.99, (3, 0))]
    copies = torch.full((3, *weight.shape), float("nan"), dtype=weight.dtype)
    backend(name).panel_pair(Target(mine, window, True, mine_low), points, copies, update, rounding)
    backend("reference").axpby_(Target(weight, window, True, residual), update, rounding)
    assert torch.equal(mine, weight) and (residual is None or torch.equal(residual, mine_low))
    for copy, point in zip(copies, points, strict=True):
        assert torch.equal(copy, displaced("reference", Target(weight, window), point))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("distribution", Distribution)
@pytest.mark.parametrize("dtype", [torch.float32, *NARROW], ids=str)
def test_embedding_displaces_the_rows_that_are_looked_up(name, distribution, dtype) -> None:
    weight = random(400, 33, dtype=dtype)
    window = Window(9, row=260, rows=400, column=5, columns=33, total_columns=70)  # a shard
    ids = torch.randint(0, 400, (3, 2, 7), generator=torch.Generator().manual_seed(1))
    points = population(distribution)
    rows = backend(name).perturbed_embedding(ids, Target(weight, window), points)
    for row_ids, mine, point in zip(ids, rows, points, strict=True):
        assert torch.equal(mine, displaced("reference", Target(weight, window), point)[row_ids])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("panel_bytes", [1, 60_000, 1 << 25])
def test_linear_is_no_worse_than_torch(name, panel_bytes) -> None:
    """Against float64, the error is at most that of torch's own float32 product with the displaced weight."""
    weight, x = random(300, 48), random(3, 2, 5, 48)
    target, points = Target(weight, Window.whole(9, weight.shape)), population(Distribution.GAUSSIAN)
    mine = backend(name).perturbed_linear(x, target, points, panel_bytes)
    assert mine.shape == (3, 2, 5, 300)
    for x_g, y_g, point in zip(x, mine, points, strict=True):
        moved = displaced("reference", target, point)
        bound = (48 + 1) * 2.0**-24 * (x_g.double().abs() @ moved.double().abs().t())
        assert bool(((y_g.double() - x_g.double() @ moved.double().t()).abs() <= bound).all())


def test_linear_refuses_what_does_not_belong_together() -> None:
    target = Target(random(6, 4), Window.whole(1, (6, 4)))
    with pytest.raises(UsageError, match=r"wants x \[2, ..., 4\] torch.float32, not \(3, 5, 4\)"):
        backend("reference").perturbed_linear(random(3, 5, 4), target, [(), ()])
