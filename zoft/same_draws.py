"""One state of all generators (torch, numpy, Python) for every evaluation of a loss: two losses differ by the weights alone.

A loss may draw random numbers itself (noise, sampled masks, functional dropout that no training flag turns off). Between the
two points of a pair such numbers would be a difference of their own: with standard deviation sigma it enters the slope as
sqrt(2) sigma / (2 eps), some hundred times sigma at eps = 2^-10.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, NamedTuple, TypeVar

import numpy
import torch

from zoft.errors import UsageError

T = TypeVar("T")
U = TypeVar("U")


class _States(NamedTuple):
    """Where all generators stand."""

    torch: list[torch.Tensor]  # of the CPU's generator, then of the devices'
    numpy: Any
    python: tuple[Any, ...]


class SameDraws(Generic[T]):
    """`loss`, but every call begins where the generators stood when this was made; `leave` ends as after one call.

    >>> first, second = torch.rand(2, generator=torch.manual_seed(0)).tolist()
    >>> _ = torch.manual_seed(0)
    >>> draw = SameDraws(lambda: torch.rand(()).item(), devices=[])
    >>> draw() == draw() == first, draw.leave(), torch.rand(()).item() == second
    (True, None, True)
    """

    def __init__(self, loss: Callable[[], T], devices: Iterable[torch.device]) -> None:
        """
        Args:
            loss: what is called.
            devices: besides the CPU, where the loss may draw.
        """
        self.loss = loss
        self._devices = sorted({device for device in devices if device.type not in ("cpu", "meta")}, key=str)
        self._start = self._states()
        self._after: _States | None = None  # behind the first call that came to its end

    def __call__(self) -> T:
        return self.once(self.loss)

    def once(self, call: Callable[[], U], *, forbidden: str = "") -> U:
        """`call()` instead, from where every call begins.

        Args:
            forbidden: why it may draw no numbers, and what to do, as the end of a sentence; empty: it may.

        Raises:
            UsageError: it drew numbers, and it may not.
        """
        self._put(self._start)
        value = call()
        if forbidden and not _equal(self._states(), self._start):
            raise UsageError(f"the loss draws random numbers, {forbidden}")
        if self._after is None:
            self._after = self._states()
        return value

    def leave(self) -> None:
        """The generators as they are after one call, however many there were."""
        if self._after is not None:
            self._put(self._after)

    def suspend(self) -> Callable[[], None]:
        """In the middle of a call: what is returned puts the generators back where they stand now."""
        return functools.partial(self._put, self._states())

    def _states(self) -> _States:
        drawn = [torch.get_rng_state(), *(torch.get_device_module(d).get_rng_state(*_which(d)) for d in self._devices)]
        return _States(drawn, numpy.random.get_state(), random.getstate())

    def _put(self, states: _States) -> None:
        numpy.random.set_state(states.numpy)
        random.setstate(states.python)
        torch.set_rng_state(states.torch[0])
        for device, state in zip(self._devices, states.torch[1:], strict=True):
            torch.get_device_module(device).set_rng_state(state, *_which(device))


@contextmanager
def kept_draws(devices: Iterable[torch.device]) -> Iterator[None]:
    """Behind it all generators stand where they stood before it, whatever was drawn inside, also where that raised.

    Args:
        devices: besides the CPU, where something may draw.

    >>> _ = torch.manual_seed(0)
    >>> with kept_draws([]):
    ...     first = torch.rand(()).item()
    >>> torch.rand(()).item() == first
    True
    """
    back = SameDraws(lambda: None, devices).suspend()
    try:
        yield
    finally:
        back()


def _equal(first: _States, second: _States) -> bool:
    """Whether all generators stand at the same place."""
    return (
        all(map(torch.equal, first.torch, second.torch))
        and first.python == second.python
        and all(map(numpy.array_equal, first.numpy, second.numpy))
    )


def _which(device: torch.device) -> tuple[torch.device, ...]:
    """How a device's module is told which of its generators is meant; torch.mps has one and takes no such argument."""
    return () if device.type == "mps" else (device,)
