"""What ranks tell each other: scalars, nothing else, and who is to blame when one does not answer.

Scalars travel between the CPUs, through a gloo group of their own, whatever the devices: a loss is on the CPU already, and
a rank that does not answer is an exception here where an accelerator's own collectives would abort the process.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from zoft.errors import ReplicaError

ROLL_CALL = 10.0  # seconds that ranks have to say that they are alive, after one of them was missed
NAME_BYTES = 64


def world_size() -> int:
    """The number of processes that train together; 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number among them, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


@dataclass(slots=True)
class Traffic:
    """What this rank has handed to collectives of this module so far."""

    calls: int = 0
    sent: int = 0  # bytes of payload; a ring passes them on world size - 1 times, a tree fewer


traffic = Traffic()


@dataclass(slots=True)
class _Wire:
    world: Any  # the default group that these belong to
    scalars: Any
    roll: Any  # used once, when a rank was missed
    names: list[str]  # [world size] "rank 1 (process 4711 on node-b)"


_wire: _Wire | None = None
_timeout = timedelta(minutes=30)


def set_timeout(seconds: float) -> None:
    """How long a rank is waited for. Takes effect before the first exchange."""
    global _timeout
    _timeout = timedelta(seconds=seconds)


def gather(values: Sequence[float]) -> list[list[float]]:
    """The values of every rank, [world size][len(values)], the same list in the same order on all ranks.

    float64 on the wire: 8 bytes a value and rank. Every rank passes the same number of values.

    Raises:
        ReplicaError: a rank did not answer; on rank 0 (on the others, if it was rank 0) the message names it.
    """
    if world_size() == 1:
        return [list(values)]
    rows = _exchange(torch.tensor(values, dtype=torch.float64))
    return [row.tolist() for row in rows]


def gather_texts(text: str, size: int = NAME_BYTES) -> list[str]:
    """A short text of every rank, cut to `size` bytes."""
    if world_size() == 1:
        return [text]
    return _decoded(_exchange(_encoded(text, size)))


@contextmanager
def name_the_lost() -> Iterator[None]:
    """Around collectives of others (Trainer's, accelerate's): where one fails, the rank that is gone is named as well.

    Raises:
        ReplicaError: in place of gloo's error.
    """
    try:
        yield
    except RuntimeError as error:
        ours = _wire is not None and _wire.world is dist.group.WORLD and not isinstance(error, ReplicaError)
        if not ours or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        assert _wire is not None
        raise _unreachable(_wire, error) from error


def _exchange(mine: torch.Tensor) -> list[torch.Tensor]:
    wire = _connected()
    everyone = list(mine.new_empty(world_size(), *mine.shape).unbind())
    traffic.calls += 1
    traffic.sent += mine.nbytes
    try:
        dist.all_gather(everyone, mine, group=wire.scalars)
    except RuntimeError as error:
        raise _unreachable(wire, error) from error
    return everyone


def _connected() -> _Wire:
    """The groups that scalars travel through, made together by all ranks at their first exchange."""
    global _wire
    if _wire is None or _wire.world is not dist.group.WORLD:
        scalars = dist.new_group(backend="gloo", timeout=_timeout)
        roll = dist.new_group(backend="gloo", timeout=_timeout)
        own = _encoded(f"rank {dist.get_rank()} (process {os.getpid()} on {socket.gethostname()})", NAME_BYTES)
        names = list(own.new_empty(world_size(), NAME_BYTES).unbind())
        dist.all_gather(names, own, group=scalars)
        _wire = _Wire(dist.group.WORLD, scalars, roll, _decoded(names))
    return _wire


def _unreachable(wire: _Wire, error: RuntimeError) -> ReplicaError:
    """Who is missing: everybody who is alive says so to rank 0."""
    reason = " ".join(str(error).split("] ", 1)[-1].split())
    waited = f"after at most {_timeout.total_seconds():g} s (ddp_timeout)"
    if dist.get_rank() > 0:
        try:
            here = dist.isend(torch.ones(1), 0, group=wire.roll)
            if here is not None:
                here.wait(timedelta(seconds=ROLL_CALL))
        except RuntimeError:
            return ReplicaError(f"{wire.names[0]} does not answer, {waited}: {reason}", speak=True)
        return ReplicaError(f"a process does not answer, {waited}; rank 0 says which: {reason}")
    silent = _silent(wire)
    who = ", ".join(wire.names[r] for r in silent) or "a process"
    verb = "do" if len(silent) > 1 else "does"
    return ReplicaError(
        f"{who} {verb} not answer, {waited}: {reason}. Look at the output of {'its' if len(silent) < 2 else 'their'} machine; "
        "started by torchrun with --max-restarts, the group starts again from the last checkpoint by itself"
    )


def _silent(wire: _Wire) -> list[int]:
    """On rank 0: the ranks from which nothing comes within the roll call."""
    heard = {r: torch.zeros(1) for r in range(1, world_size())}
    works = []
    for r, said in heard.items():
        try:
            works.append(dist.irecv(said, r, group=wire.roll))
        except RuntimeError:
            continue  # its connection is gone: it will stay silent
    end = time.monotonic() + ROLL_CALL
    while time.monotonic() < end and not all(said.item() for said in heard.values()):
        time.sleep(0.05)
        if len(works) == sum(bool(said.item()) for said in heard.values()):
            break
    return [r for r, said in heard.items() if not said.item()]


def _encoded(text: str, size: int) -> torch.Tensor:
    return torch.tensor(list(text.encode()[:size].ljust(size, b"\0")), dtype=torch.uint8)


def _decoded(rows: Sequence[torch.Tensor]) -> list[str]:
    return [bytes(row.tolist()).rstrip(b"\0").decode(errors="ignore") for row in rows]
