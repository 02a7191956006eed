"""Moves along directions with thin factors: the CPU backend gives the bits of the reference, which forms A B^T by torch."""

import pytest
import torch

from zoft.backends import Move, Rounding, Target, Term, backend
from zoft.backends.shaped import KEPT_BYTES, ShapedBackend
from zoft.directions import Direction, Distribution, LowRank, Window

CASES = [
    (dtype, rounding)
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16)
    for rounding in (list(Rounding) if dtype is torch.bfloat16 else [Rounding.NEAREST, Rounding.STOCHASTIC])
]


def moves(form: LowRank, law: Distribution) -> list[Move]:
    z = [Direction(3, 7, index, law, form=form) for index in range(2)]
    dense = Direction(3, 8, 0, law)
    return [
        Move((Term(z[0], -3e-4), Term(z[1], 0.07)), decay=0.999, rounding_key=(3, 1)),
        Move((Term(z[1], 2.0**-10), Term(dense, 1e-3)), rounding_key=(3, 2)),
        Move((Term(dense, 1e-3),), rounding_key=(3, 3)),
    ]


@pytest.mark.parametrize("form", [LowRank("low_rank", 1), LowRank("low_rank", 3), LowRank("subspace", 2, 50)], ids=str)
@pytest.mark.parametrize("law", [Distribution.RADEMACHER, Distribution.GAUSSIAN])
@pytest.mark.parametrize(("dtype", "rounding"), CASES, ids=str)
def test_equal_to_the_reference(form: LowRank, law: Distribution, dtype: torch.dtype, rounding: Rounding) -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((200, 600), (130, 33), (7, 12), (40,)):
        start = (torch.randn(shape, generator=generator, dtype=torch.float64) * 0.05).to(dtype)
        results = []
        for name in ("reference", "cpu"):
            weight, low = start.clone(), None
            if rounding.residual_dtype is not None:
                low = torch.arange(weight.numel()).reshape(shape).remainder(100).to(rounding.residual_dtype)
            target = Target(weight, Window.whole(77, shape), True, low)
            ShapedBackend(backend(name)).sweep_([target], moves(form, law), rounding)
            copy = torch.full_like(start, torch.nan)
            ShapedBackend(backend(name)).axpby_(
                Target(start, Window.whole(77, shape), out=copy), moves(form, law)[:1], Rounding.NEAREST
            )
            results.append([weight, copy] if low is None else [weight, copy, low])
        assert not torch.equal(results[0][0], start)
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True)), shape


@pytest.mark.parametrize("law", [Distribution.RADEMACHER, Distribution.GAUSSIAN])
@pytest.mark.parametrize("count", [1, 4, 11])
@pytest.mark.parametrize(("dtype", "rounding"), CASES, ids=str)
def test_columns_of_one_step_and_of_many_in_one_sweep(
    law: Distribution, count: int, dtype: torch.dtype, rounding: Rounding
) -> None:
    """One move of `count` directions of rank 1 over several matrices, a shard and a vector: they have loops of their own."""
    z = [Direction(3, step, 0, law, form=LowRank("low_rank", 1)) for step in range(count)]
    some = [Move(tuple(Term(d, 0.01 * (1 + d.step)) for d in z), rounding_key=(3, 9))]
    windows = [
        Window.whole(1, (70, 1100)),
        Window(2, 13, 50, 6, 65, 90, 70),
        Window.whole(3, (40, 33)),
        Window.whole(4, (9,)),
    ]
    generator = torch.Generator().manual_seed(0)
    starts = [torch.randn(w.shape, generator=generator, dtype=torch.float64).mul(0.05).to(dtype) for w in windows]
    results = []
    for name in ("reference", "cpu"):
        weights = [start.clone() for start in starts]
        kept = rounding.residual_dtype
        lows = [None if kept is None else torch.zeros(w.shape, dtype=kept) for w in windows]
        targets = [Target(*part[:2], False, part[2]) for part in zip(weights, windows, lows, strict=True)]
        ShapedBackend(backend(name)).sweep_(targets, some, rounding)
        results.append(weights + [low for low in lows if low is not None])
    assert not any(torch.equal(a, b) for a, b in zip(results[1], starts, strict=False))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("form", [LowRank("low_rank", 2, 4), LowRank("subspace", 2)], ids=str)
def test_factors_of_all_matrices_are_those_of_each(form: LowRank) -> None:
    """From the second direction on they are drawn in one sweep; too many to keep are drawn one by one."""
    ops, device = ShapedBackend(backend("cpu")), torch.device("cpu")
    windows = [Window.whole(5, (64, 48)), Window.whole(6, (7, 300)), Window(7, 3, 4, 0, 9, 9, 20)]
    for step in range(3):
        direction = Direction(1, step, form=form)
        for window in windows:
            alone = ShapedBackend(backend("reference")).factors(direction, window, device)
            assert all(torch.equal(a, b) for a, b in zip(ops.factors(direction, window, device), alone, strict=True))


def test_a_panel_and_a_transposed_weight_move_as_the_whole_does() -> None:
    start = torch.randn(300, 70, generator=torch.Generator().manual_seed(0))
    window, some = Window.whole(5, start.shape), moves(LowRank("low_rank", 2), Distribution.GAUSSIAN)
    whole, panel, turned = start.clone(), start.clone(), start.t().contiguous().t()
    ShapedBackend(backend("cpu")).axpby_(Target(whole, window), some)
    ShapedBackend(backend("cpu")).axpby_(Target(panel[100:231], window.panel(100, 231)), some)
    ShapedBackend(backend("cpu")).axpby_(Target(turned, window), some)
    assert torch.equal(panel[100:231], whole[100:231]) and torch.equal(panel[:100], start[:100])
    assert torch.equal(turned, whole)


def test_factors_are_made_once_and_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    ops = ShapedBackend(backend("cpu"))
    window, device, form = Window.whole(5, (64, 48)), torch.device("cpu"), LowRank("low_rank", 2)
    first = ops.factors(Direction(1, 2, form=form), window, device)
    assert ops.factors(Direction(1, 2, form=form), window, device) is first
    monkeypatch.setattr("zoft.backends.shaped.KEPT_BYTES", 4 * (64 + 48) * 2 * 3)
    for step in range(20):
        ops.factors(Direction(1, step, form=form), window, device)
    assert len(ops._made) <= 3 and KEPT_BYTES == 64 << 20
