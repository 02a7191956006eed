"""A backend that is wrong by one bit is found before it trains anything."""

import pytest
import torch

from zoft.backends import Rounding, backend
from zoft.backends.cpu import CpuBackend
from zoft.backends.reference import ReferenceBackend
from zoft.backends.selfcheck import prove
from zoft.errors import UsageError

CPU = torch.device("cpu")


@pytest.mark.parametrize("member", [ReferenceBackend, CpuBackend])
def test_right_backends_pass(member) -> None:
    prove(member(), CPU)


@pytest.mark.parametrize("rounding", [Rounding.NEAREST, Rounding.STOCHASTIC])
def test_one_wrong_bit_is_named(rounding) -> None:
    class Wrong(ReferenceBackend):
        name = "wrong"

        def axpby_(self, target, moves, how=Rounding.NEAREST) -> None:
            super().axpby_(target, moves, how)
            if how is rounding:
                integers = target.weight.view(torch.int32 if target.weight.dtype is torch.float32 else torch.int16)
                integers[199, 95] ^= 1

    with pytest.raises(
        UsageError, match=rf"wrong backend.*{rounding.value} rounding, 1 of 19200 .*zo_backend=reference"
    ):
        prove(Wrong(), CPU)


def test_a_backend_is_made_once() -> None:
    assert backend("reference") is backend("reference")
