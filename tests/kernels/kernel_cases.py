"""Inputs that the tests of the kernels share."""

from collections.abc import Sequence

import torch

from zoft.backends import Backend, Move, Rounding, Target, Term
from zoft.directions import Direction, Distribution, Window

NARROW = (torch.bfloat16, torch.float16)
SHAPES = ((), (257,), (130, 3), (5, 129), (140, 33), (2, 3, 70), (9, 64))  # the last is read 16 bytes at a time


def roundings(dtype: torch.dtype) -> list[Rounding]:
    return list(Rounding) if dtype is torch.bfloat16 else [Rounding.NEAREST, Rounding.STOCHASTIC]


STORAGE = [(dtype, rounding) for dtype in (torch.float32, torch.float64, *NARROW) for rounding in roundings(dtype)]


def one_move(law: Distribution) -> list[Move]:
    """The update that almost every step makes."""
    return [Move((Term(Direction(3, 0, 0, law), -3e-4),), decay=0.999, rounding_key=(3, 1))]


def many_moves(law: Distribution) -> list[Move]:
    z = [Direction(3, step, index, law) for step, index in ((0, 0), (0, 1), (9, 0))]
    return [
        Move((Term(z[0], 2.0**-10),)),
        Move((Term(z[0], -3e-4), Term(z[1], 0.07)), decay=0.999, rounding_key=(3, 1)),
        Move((Term(z[2], 1e-6), Term(z[1], 0.01), Term(z[0], -0.02)), rounding_key=(3, 2)),
        Move((Term(z[2], 3e-4),), rounding_key=(3, 3), to_nearest=True),
    ]


def mixed_moves() -> list[Move]:
    """Signs and normals in one move."""
    return [Move((Term(Direction(3, 0), 2.0**-10), Term(Direction(3, 0, 1, Distribution.GAUSSIAN), 0.01)))]


def random(shape: Sequence[int], dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(tuple(shape), generator=generator, dtype=torch.float64) * 0.05).to(dtype)


def target_of(shape: Sequence[int], dtype: torch.dtype, rounding: Rounding, device: str, seed: int = 0) -> Target:
    """A fresh parameter that decays, with residual bits where the rounding keeps them."""
    weight, residual = random(shape, dtype, seed).to(device), None
    if rounding.residual_dtype is not None and dtype is torch.bfloat16:
        residual = torch.arange(weight.numel()).reshape(weight.shape).remainder(100).to(rounding.residual_dtype)
        residual = residual.to(device)
    return Target(weight, Window.whole(77, weight.shape), True, residual)


def state(target: Target) -> list[torch.Tensor]:
    """What a write changed."""
    return [part for part in (target.weight, target.residual, target.out) if part is not None]


def equal(mine: Target, theirs: Target) -> bool:
    return all(torch.equal(a, b) for a, b in zip(state(mine), state(theirs), strict=True))


def displaced(reference: Backend, target: Target, point: tuple[Term, ...]) -> torch.Tensor:
    out = torch.full_like(target.weight, float("nan"))
    reference.axpby_(Target(target.weight, target.window, out=out), [Move(point)])
    return out
