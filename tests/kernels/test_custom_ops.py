"""Every op is a torch custom op with a fake kernel: torch.compile can trace it."""

from contextlib import nullcontext

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.kernels.kernel_cases import random
from zoft.backends import Move, Target, Term, backend
from zoft.backends.triton import _moves
from zoft.directions import Direction, Window
from zoft_kernels.launch import KINDS, Arrangement, bits
from zoft_kernels.sweep import _items

pytestmark = pytest.mark.gpu
UTILITIES = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
WINDOW = [0, 40, 0, 24, 24, 7]


def arguments(name: str, device: str) -> tuple:
    weight, z = random((40, 24)).to(device), Direction(1, 2)
    update = _moves((Move((Term(z, 1e-3),)),), (), torch.device(device))
    pair = _moves((), ((Term(z, 0.1),), (Term(z, -0.1),)), torch.device(device))
    both = _moves((Move((Term(z, 1e-3),)),), ((Term(z, 0.1),), (Term(z, -0.1),)), torch.device(device))
    copies = torch.zeros(2, 40, 24, device=device)
    if name == "axpby_":
        return weight, None, update.table, update.values, update.plan, WINDOW, False, 0
    if name == "axpby_out":
        return weight, None, torch.zeros_like(weight), update.table, update.values, update.plan, WINDOW, False, 0
    if name == "dot":
        return weight, None, pair.table, pair.plan, WINDOW, 0
    if name == "panel_pair":
        return weight, copies, pair.table, pair.values, pair.plan, WINDOW
    if name == "panel_pair_":
        return weight, None, copies, both.table, both.values, both.plan, WINDOW, False, 0
    if name == "perturbed_embedding":
        ids = torch.arange(10, device=device).reshape(2, 5)
        return weight, ids, pair.table, pair.values, pair.plan, WINDOW
    if name == "perturbed_linear":
        return random((2, 3, 24)).to(device), weight, pair.table, pair.values, pair.plan, WINDOW, 16
    raise KeyError(name)


class Seen(TorchDispatchMode):
    """The kernels' ops that come past torch's dispatcher."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        self.names += [name.removeprefix("zoft_kernels::")] if name.startswith("zoft_kernels::") else []
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["axpby_", "axpby_out", "panel_pair", "panel_pair_"])
def test_a_launch_past_the_dispatcher_is_the_op(device, name) -> None:
    """The same bits, and autograd is told what was written; where a mode looks on, it sees the op."""
    z, found = Direction(1, 2), []
    update, points = [Move((Term(z, 1e-3),))], [(Term(z, 0.1),), (Term(z, -0.1),)]
    for mode in (nullcontext(), Seen()):
        weight, copies = random((40, 24)).to(device), torch.zeros(2, 40, 24, device=device)
        target = Target(weight, Window.whole(7, (40, 24)), out=copies[0] if name == "axpby_out" else None)
        before = weight._version, copies._version
        with mode:
            if name.startswith("axpby"):
                backend("triton").axpby_(target, update)
            else:
                backend("triton").panel_pair(target, points, copies, update if name == "panel_pair_" else ())
        found.append((weight, copies))
        written = (name in ("axpby_", "panel_pair_"), name != "axpby_")
        assert (weight._version > before[0], copies._version > before[1]) == written
        assert not isinstance(mode, Seen) or mode.names == [name]
    assert all(map(torch.equal, *found))


OPS = ("axpby_", "axpby_out", "dot", "panel_pair", "panel_pair_", "perturbed_embedding", "perturbed_linear")


@pytest.mark.parametrize("name", OPS)
def test_opcheck(device, name) -> None:
    torch.library.opcheck(getattr(torch.ops.zoft_kernels, name).default, arguments(name, device), test_utils=UTILITIES)


def test_opcheck_of_the_sweep(device) -> None:
    """Its table holds addresses, so only what it declares can be checked, on tensors that stay where they are."""
    weight = random((40, 24)).to(device)
    update = _moves((Move((Term(Direction(1, 2), 1e-3),)),), (), torch.device(device))
    arranged = Arrangement.of(update.plan, KINDS[torch.float32], tuple(WINDOW))
    addresses = torch.tensor([[weight.data_ptr()] * 4 + WINDOW], device=device)
    form = [KINDS[torch.float32], arranged.mode, arranged.columns, arranged.group, 0]
    given = (
        [bits(weight)],
        [],
        addresses,
        _items(0, arranged).to(device),
        update.table,
        update.values,
        update.plan,
        form,
    )
    torch.library.opcheck(
        torch.ops.zoft_kernels.sweep_.default, (*given, False, True, 0), test_utils=("test_schema", "test_faketensor")
    )
