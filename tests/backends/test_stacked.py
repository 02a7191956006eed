"""Points along many thin directions, through tables that stay from one point to the next; against dense float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from zoft.backends import Point, Target, Term, backend
from zoft.backends.shaped import ShapedBackend
from zoft.directions import DirectionSource, LowRank, Window, draw

FORMS = [LowRank("low_rank", 1), LowRank("low_rank", 2, 3), LowRank("subspace", 3, 2)]
ROWS, COLUMNS = 40, 12


def dense(weight: torch.Tensor, point: Point, window: Window) -> torch.Tensor:
    """W + Z in float64."""
    bent = weight.double()
    for term in point:
        bent = bent + term.scale * draw(term.direction, window).double()
    return bent


def population(form: LowRank, waiting: int, step: int) -> list[Point]:
    """Two signs of a step's direction behind what waits from the steps before; the first steps are long merged."""
    source = DirectionSource(3, form=form)
    lacking = tuple(Term(source.direction(t, 0), 0.01 * (1 + t % 3), waits=True) for t in range(step - waiting, step))
    return [(*lacking, Term(source.direction(step, 0), sign * 0.125)) for sign in (1.0, -1.0)]


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.double() - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_products_and_rows_are_those_of_the_dense_matrices(form: LowRank, dtype: torch.dtype) -> None:
    """More and more waits, then nothing but a few: columns are added, replaced and left out."""
    generator: Any = torch.Generator().manual_seed(0)
    ops, window = ShapedBackend(backend("auto")), Window.whole(5, (ROWS, COLUMNS))
    weight, x, bias = (
        torch.randn(*shape, generator=generator).to(dtype) for shape in ((ROWS, COLUMNS), (2, 3, COLUMNS), (ROWS,))
    )
    ids = torch.tensor([[3, 39, 3], [0, 7, 1]])
    target, exact = Target(weight, window), {torch.float64: 1e-6, torch.float32: 1e-6, torch.bfloat16: 2.0**-7}[dtype]
    for step, waiting in ((2, 1), (3, 2), (4, 3), (5, 4), (9, 8), (10, 1), (11, 2)):
        points = population(form, waiting, step)
        bent = torch.stack([dense(weight, point, window) for point in points])
        wanted = x.double() @ bent.transpose(1, 2)
        assert error(ops.thin_linear(x, target, points), wanted) < exact
        assert error(ops.thin_linear(x, target, points, bias), wanted + bias.double()) < exact
        both = torch.stack([bias, -bias])
        assert error(ops.thin_linear(x, target, points, both), wanted + both.double()[:, None]) < exact
        few = ops.thin_linear(x, target, points, bias[[1, 2]], torch.tensor([1, 2]))
        assert error(few, (wanted + bias.double())[..., 1:3]) < exact
        rows = torch.stack([matrix[own] for matrix, own in zip(bent, ids, strict=True)])
        assert error(ops.perturbed_embedding(ids, target, points), rows) < exact


def test_factors_are_made_once() -> None:
    """Both signs, and every later step for which a direction waits, find them where they lie."""
    ops, window = ShapedBackend(backend("auto")), Window.whole(5, (ROWS, COLUMNS))
    weight, x, made = torch.zeros(ROWS, COLUMNS), torch.ones(1, 2, COLUMNS), []
    make = ops._stacked._make
    ops._stacked._make = lambda direction, *rest: (made.append(direction.step), make(direction, *rest))[1]
    for step in range(2, 7):
        for point in population(FORMS[0], step - 1, step):
            ops.thin_linear(x, Target(weight, window), [point])
    assert made == [1, 2, 3, 4, 5, 6]


def test_vectors_do_not_see_what_waits() -> None:
    """They have it already. Nor does a matrix of one column, whose directions are dense."""
    form, ops = FORMS[0], ShapedBackend(backend("auto"))
    window, weight = Window.whole(5, (ROWS,)), torch.zeros(ROWS)
    (plus, _) = population(form, 3, 4)
    copies = torch.empty(1, ROWS)
    ops.panel_pair(Target(weight, window), [plus], copies)
    assert torch.equal(copies[0], 0.125 * draw(plus[-1].direction, window)[:, 0])
