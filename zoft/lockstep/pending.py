"""An update that is made while the next losses are taken, of each parameter once: in one sweep before they are, or later
in the reading that displaces it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from zoft.backends import Move, Rounding, Target
from zoft.space import ParameterSpace, Slot


class Pending:
    """The moves of one update, and which parameters still lack it."""

    def __init__(self, space: ParameterSpace) -> None:
        self._space = space
        self._moves: list[Move] = []
        self._lack: set[Slot] = set()

    def __bool__(self) -> bool:
        return bool(self._moves)

    def keep(self, moves: Sequence[Move]) -> None:
        """From now on every parameter lacks these moves."""
        self._moves, self._lack = list(moves), set(self._space.slots)

    def take(self) -> list[Move]:
        """The moves, for somebody who makes them in another way."""
        moves, self._moves, self._lack = self._moves, [], set()
        return moves

    @contextmanager
    def of(self, slot: Slot) -> Iterator[tuple[Target, Sequence[Move], Rounding]]:
        """What is to be read of a parameter, and what is to be made of it in the same reading; () if nothing is.

        The operation inside makes all of it, also where it raises; an interruption in the middle leaves the space torn.
        """
        if slot not in self._lack:
            yield Target(slot.weight, slot.window), (), Rounding.NEAREST
            return
        self._lack.discard(slot)
        before, self._space.torn = self._space.torn, True
        try:
            yield _target(slot), self._moves, self._space.rounding
        except Exception:
            self._space.torn = before
            raise
        self._space.torn = before

    def make(self, slots: Iterable[Slot]) -> None:
        """Bring these parameters up to date now."""
        late = [slot for slot in slots if slot in self._lack]
        if late:
            before, self._space.torn = self._space.torn, True
            self._lack.difference_update(late)
            self._space.backend.sweep_([_target(slot) for slot in late], self._moves, self._space.rounding)
            self._space.torn = before

    @contextmanager
    def spent(self) -> Iterator[None]:
        """Inside, parameters are brought up to date as they are read; at the end, or on an exception, all others are."""
        try:
            yield
        finally:
            self.make(self._space.slots)
            self._moves = []


def _target(slot: Slot) -> Target:
    return Target(slot.weight, slot.window, slot.decays, slot.residual)
