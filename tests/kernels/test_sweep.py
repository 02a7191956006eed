"""sweep_: all parameters in few launches, and addresses beyond 2^31 elements."""

import pytest
import torch

from tests.kernels.kernel_cases import equal, many_moves, one_move, random, target_of
from zoft.backends import Move, Rounding, Target, Term, backend, triton
from zoft.backends.triton import _moves
from zoft.directions import Direction, Distribution, Window
from zoft.errors import UsageError
from zoft_kernels import tables as sweep_tables
from zoft_kernels.launch import FLAT, KINDS, QUAD_ELEMENTS, Arrangement, bits
from zoft_kernels.sweep import _sweep_

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("law", Distribution)
@pytest.mark.parametrize("rounding", Rounding)
def test_a_model_of_mixed_parameters_equals_the_reference(device, law, rounding) -> None:
    dtypes = [torch.bfloat16] if rounding.residual_dtype else [torch.float32, torch.bfloat16, torch.float16]
    models = [
        [
            target_of(shape, dtype, rounding, device, seed)
            for dtype in dtypes
            for seed, shape in enumerate(((257,), (140, 33)))
        ]
        for _ in range(2)
    ]
    for name, targets in zip(("triton", "reference"), models, strict=True):
        backend(name).sweep_(targets, many_moves(law), rounding)
    assert all(equal(mine, theirs) for mine, theirs in zip(*models, strict=True))


@pytest.mark.parametrize(("columns", "skipped"), [(64, 1 << 27), (5, 1 << 30)], ids=["wide", "few columns"])
def test_addresses_beyond_2_to_the_31_elements(device, columns, skipped) -> None:
    """The last rows of a parameter of more than 2^32 elements, of which only these rows exist in memory."""
    moves, count = one_move(Distribution.RADEMACHER), 600
    tables = _moves(tuple(moves), (), torch.device(device))
    window = (0, skipped + count, 0, columns, columns, 77)
    kind = KINDS[torch.float32]
    arranged = Arrangement.of(tables.plan, kind, window)
    mine, theirs = (random((count, columns)).to(device) for _ in range(2))
    address = mine.data_ptr() - mine.element_size() * skipped * columns
    first = skipped * columns // (4 * QUAD_ELEMENTS) if arranged.mode == FLAT else skipped // 128
    items = torch.tensor([(0, tile, 0) for tile in range(first, arranged.row_tiles)], dtype=torch.int32, device=device)
    row = torch.tensor([[address, address, address, address, *window]], device=device)
    form = (kind, arranged.mode, arranged.columns, arranged.group, 0)
    _sweep_([bits(mine)], [], row, items, tables.table, tables.values, tables.plan, form, False, True, 0)
    backend("reference").axpby_(Target(theirs, Window(77, skipped, count, 0, columns, columns)), moves)
    assert arranged.column_tiles == 1 and torch.equal(mine, theirs)


@pytest.mark.parametrize("dtype", KINDS, ids=str)
def test_nothing_to_do_copies(device, dtype) -> None:
    target = target_of((5, 7), dtype, Rounding.NEAREST, device)
    out = torch.full_like(target.weight, float("nan"))
    backend("triton").sweep_([Target(target.weight, target.window, out=out)], [])
    assert torch.equal(out, target.weight)


def test_what_the_kernels_cannot_store_is_refused(device) -> None:
    target = Target(random((4, 4), torch.float16).to(device), Window.whole(1, (4, 4)))
    with pytest.raises(UsageError, match=r"rounding residual8 cannot store torch\.float16"):
        backend("triton").sweep_([target], one_move(Distribution.RADEMACHER), Rounding.RESIDUAL8)
    integers = Target(torch.zeros(4, 4, dtype=torch.int8, device=device), Window.whole(1, (4, 4)))
    with pytest.raises(UsageError, match=r"moves float32, bfloat16, float16 and float64, not torch.int8"):
        backend("triton").sweep_([integers], one_move(Distribution.RADEMACHER))


def test_tables_of_addresses_are_made_once(device, monkeypatch) -> None:
    """A step's sweep is the last step's over the same memory: its tables stay, until a tensor is elsewhere or another."""
    made: list[int] = []

    def counted(members, moves):
        made.append(len(members))
        return sweep_tables(members, moves)

    monkeypatch.setattr(triton, "sweep_tables", counted)
    mine, theirs = triton.TritonBackend(), backend("reference")
    memory = [random((257 * 8,)).to(device) for _ in range(2)]
    for weights, shape, dtype, wanted in (
        (memory, (257, 8), torch.float32, 1),
        (memory, (514, 8), torch.bfloat16, 2),  # other tensors at these addresses
        (memory, (514, 8), torch.float16, 3),
        ([part.clone() for part in memory], (257, 8), torch.float32, 4),
    ):
        for step in range(3):
            pair = [part.view(dtype).view(shape).copy_(random(shape)) for part in weights]
            moves = [Move((Term(Direction(3, step), 0.01),))]
            ours, others = (
                [Target(weight, Window.whole(seed, shape)) for seed, weight in enumerate(some)]
                for some in (pair, [weight.clone() for weight in pair])
            )
            mine.sweep_(ours, moves)
            theirs.sweep_(others, moves)
            for one, other in zip(ours, others, strict=True):
                assert torch.equal(one.weight, other.weight)
            assert len(made) == wanted and made[-1] == 2
