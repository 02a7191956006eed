"""dot, panel_pair, perturbed_linear and perturbed_embedding: the bits of the reference."""

import pytest
import torch

from tests.kernels.kernel_cases import (
    NARROW,
    SHAPES,
    STORAGE,
    displaced,
    equal,
    many_moves,
    one_move,
    random,
    target_of,
)
from zoft.backends import Rounding, Target, Term, backend
from zoft.directions import Direction, Distribution, Window

pytestmark = pytest.mark.gpu
ALL = (torch.float32, torch.float64, *NARROW)


def population(law: Distribution, eps: float = 2.0**-6) -> list[tuple[Term, ...]]:
    z = Direction(3, 1, 0, law)
    return [(Term(z, eps),), (Term(z, -eps),)]


@pytest.mark.parametrize("law", Distribution)
@pytest.mark.parametrize("dtype", ALL, ids=str)
def test_dot(device, law, dtype) -> None:
    for shape in (*SHAPES, (0, 4)):
        weight = random(shape, dtype).to(device)
        rows, columns = Window.whole(77, weight.shape).shape
        target = Target(weight, Window(77, 130, rows, 3, columns, 1 << 20))  # a shard
        direction = Direction(3, 1, 0, law)
        assert torch.equal(backend("triton").dot(target, direction), backend("reference").dot(target, direction)), shape


@pytest.mark.parametrize("law", Distribution)
@pytest.mark.parametrize(("dtype", "rounding"), STORAGE, ids=str)
@pytest.mark.parametrize("update", [None, one_move, many_moves])
def test_panel_pair(device, law, dtype, rounding, update) -> None:
    points = [*population(law), *([()] if update is many_moves else [])]
    for shape in ((257,), (140, 33)):
        targets = [target_of(shape, dtype, rounding, device) for _ in range(2)]
        copies = [torch.full((len(points), *shape), float("nan"), dtype=dtype, device=device) for _ in range(2)]
        for name, target, copy in zip(("triton", "reference"), targets, copies, strict=True):
            backend(name).panel_pair(target, points, copy, update(law) if update else (), rounding)
        assert torch.equal(*copies) and equal(*targets), shape


@pytest.mark.parametrize("law", Distribution)
@pytest.mark.parametrize("dtype", ALL, ids=str)
@pytest.mark.parametrize("columns", [133, 64])
def test_perturbed_embedding(device, law, dtype, columns) -> None:
    weight = random((400, columns), dtype).to(device)
    target = Target(weight, Window(9, row=260, rows=400, column=5, columns=columns, total_columns=170))  # a shard
    ids = torch.randint(0, 400, (3, 2, 7), generator=torch.Generator().manual_seed(1)).to(device)
    points = [*population(law), ()]
    rows = backend("triton").perturbed_embedding(ids, target, points)
    for row_ids, mine, point in zip(ids, rows, points, strict=True):
        assert torch.equal(mine, displaced(backend("reference"), target, point)[row_ids])


@pytest.mark.parametrize("panel_bytes", [1, 60_000, 1 << 25])
def test_perturbed_linear(device, panel_bytes) -> None:
    weight, x = random((300, 48)).to(device), random((2, 2, 5, 48)).to(device)
    if panel_bytes == 1:  # a row at a time
        weight = weight[:40]
    target, points = Target(weight, Window.whole(9, weight.shape)), population(Distribution.GAUSSIAN)
    mine = backend("triton").perturbed_linear(x, target, points, panel_bytes)
    assert torch.equal(mine, backend("reference").perturbed_linear(x, target, points, panel_bytes))


def test_copies_that_do_not_fit_are_refused(device) -> None:
    from zoft.errors import UsageError

    target = target_of((4, 6), torch.float32, Rounding.NEAREST, device)
    with pytest.raises(UsageError, match=r"`copies` must be contiguous torch.float32 \(2, 4, 6\)"):
        backend("triton").panel_pair(target, population(Distribution.RADEMACHER), torch.empty(2, 4, 5, device=device))
