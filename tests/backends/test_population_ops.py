"""dot, panel_pair, perturbed_linear, perturbed_embedding, low_rank: the definitions, against float64 and `axpby_`."""

import pytest
import torch

from zoft.backends import Move, Rounding, Target, Term, available, backend
from zoft.backends.reference import scalar
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
@pytest.mark.parametrize("window", [Window(9, 3, 9, 0, 515, 515), Window(9, 130, 133, 2, 33, 40)], ids=str)
def test_panel_pair_of_points_with_one_term_each(name, distribution, dtype, window) -> None:
    """Both signs of one direction and one of another, into buffers of NaNs: backends have short cuts for these."""
    weight = random(window.rows, window.columns, dtype=dtype)
    z, other = (Direction(3, step, 0, distribution) for step in (1, 2))
    points = [(Term(z, 2.0**-6),), (Term(z, -(2.0**-6)),), (Term(other, 0.3),)]
    copies, before = torch.full((3, *weight.shape), torch.nan, dtype=dtype), weight.clone()
    backend(name).panel_pair(Target(weight, window), points, copies)
    assert torch.equal(weight, before)
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


def factors(points: int, rows: int, columns: int, rank: int, dtype: torch.dtype) -> list[torch.Tensor]:
    draw_ = torch.Generator().manual_seed(7)
    shapes = ((points, 3, 5, columns), (rows, columns), (points, rows, rank), (points, columns, rank), (points, rows))
    x, weight, left, right, bias = (torch.randn(s, generator=draw_, dtype=torch.float64).to(dtype) for s in shapes)
    return [x, weight * 0.05, left, right, bias]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("shared_bias", [None, True, False], ids=["no bias", "one bias", "a bias each"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_low_rank_is_the_product_with_the_displaced_weight(name, rank, shared_bias, dtype) -> None:
    """x (W + s A B^T)^T + bias by the definition in float64; the error of a sum of so many terms, and of two roundings."""
    scales = [2.0**-6, -(2.0**-6), 0.0, 0.5]
    x, weight, left, right, bias = factors(4, 70, 48, rank, dtype)
    bias = None if shared_bias is None else bias[0] if shared_bias else bias
    mine = backend(name).low_rank(x, weight, left, right, scales, bias)
    assert mine.shape == (4, 3, 5, 70) and mine.dtype is dtype
    added = 0.0 if bias is None else bias.double().expand(4, 70).view(4, 1, 1, 70)
    scale = torch.tensor(scales, dtype=torch.float64).view(4, 1, 1, 1)
    thick = torch.einsum("gabk,nk->gabn", x.double(), weight.double())
    thin = scale * torch.einsum("gabk,gkr,gnr->gabn", x.double(), right.double(), left.double())
    size = torch.einsum("gabk,nk->gabn", x.double().abs(), weight.double().abs())
    size_thin = scale.abs() * torch.einsum("gabk,gkr,gnr->gabn", *(t.double().abs() for t in (x, right, left)))
    unit = torch.finfo(dtype).eps
    sums = (48 + rank + 3) * min(unit, 2.0**-23)  # 16-bit products are summed in float32
    bound = sums * (size + size_thin + abs(added)) + unit * ((thick + thin + added).abs() + 2 * size_thin + abs(added))
    assert bool(((mine.double() - thick - thin - added).abs() <= bound).all())


def test_low_rank_is_the_dense_displacement_of_the_same_direction() -> None:
    x, weight, left, right, _ = factors(2, 70, 48, 2, torch.float32)
    left, right = left[:1].expand(2, -1, -1), right[:1].expand(2, -1, -1)
    plus, minus = backend("reference").low_rank(x, weight, left, right, [0.25, -0.25])
    moved = 0.25 * left[0] @ right[0].t()
    torch.testing.assert_close(plus, x[0] @ (weight + moved).t(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(minus, x[1] @ (weight - moved).t(), rtol=1e-5, atol=1e-5)


def test_low_rank_refuses_what_does_not_belong_together() -> None:
    x, weight, left, right, bias = factors(2, 70, 48, 2, torch.float32)
    with pytest.raises(
        UsageError, match=r"2 members and a weight \(70, 48\) wants left \(2, 70, 2\), not \(2, 48, 2\)"
    ):
        backend("reference").low_rank(x, weight, right, left, [0.1, 0.1])
    with pytest.raises(UsageError, match=r"wants x \(3, 3, 5, 48\), not \(2, 3, 5, 48\)"):
        backend("reference").low_rank(x, weight, left, right, [0.1, 0.1, 0.1])
    with pytest.raises(UsageError, match=r"one dtype, not torch.bfloat16, torch.float32"):
        backend("reference").low_rank(x, weight, left, right, [0.1, 0.1], bias.bfloat16())


def test_scalars_stay_on_the_host() -> None:
    """To bring each to a GPU the host would wait for it: once a term and panel."""
    like = torch.empty(2, dtype=torch.float64, device="meta")
    factor = scalar(0.1, like)
    assert factor.device.type == "cpu" and factor.dtype is torch.float64 and (like * factor).device.type == "meta"
