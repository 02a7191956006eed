"""A training process that is killed at a chosen place. Run as a script by test_crash.py: every kill is a real one.

One process imports torch once and forks a child per attempt, which trains, or dies by SIGKILL, or finds a full disk.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.trajectory.runs import detach, make
from zoft.trajectory import TrajectoryError, TrajectoryLog, attach, replay

STEPS, SAVE_EVERY = 16, 3
SETTINGS: dict[str, Any] = {
    "weight_rounding": "residual8",
    "rule": "momentum",
    "rule_settings": {"window": 2},
    "backend": "reference",  # nothing to compile in every child, and no threads that a fork would lose
}


class Line(nn.Module):
    """Two small parameters: a run must take milliseconds, as there are more than a hundred."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(3, 1)
        with torch.no_grad():
            for number, weight in enumerate(self.parameters()):
                weight.fill_(0.1 + number)
        self.to(torch.bfloat16)


def model() -> Line:
    return Line()


def loss_at(trained: Line, step: int) -> torch.Tensor:
    x = torch.tensor([1.0, step % 3, step % 5], dtype=torch.bfloat16)
    return (trained.line(x).float() - 0.3 * step).square().sum()


def run(folder: Path, at: Callable[[str, int], None] = lambda place, step: None) -> str:
    """Train to the end from the last checkpoint, if there is one; the fingerprint of the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    trained = model()
    optimizer = make(trained, **SETTINGS)
    saved = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    if saved:
        state = torch.load(saved[-1] / "state.pt", weights_only=True)
        trained.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    at("attach", optimizer.steps)
    recorder = attach(optimizer, folder / "trajectory.zoft", checkpoint=saved[-1] if saved else None)
    optimizer.observers.insert(0, lambda step: at("applied", step.index))
    while optimizer.steps < STEPS:
        at("step", optimizer.steps)
        optimizer.step(lambda step=optimizer.steps: loss_at(trained, step))
        if optimizer.steps % SAVE_EVERY == 0:
            recorder.sync()
            parts = folder / f".writing-{optimizer.steps}"
            parts.mkdir(exist_ok=True)
            at("checkpoint begun", optimizer.steps)
            torch.save({"model": trained.state_dict(), "optimizer": optimizer.state_dict()}, parts / "state.pt")
            at("checkpoint half", optimizer.steps)
            recorder.checkpoint(parts)
            os.replace(parts, folder / f"checkpoint-{optimizer.steps}")
            at("checkpoint done", optimizer.steps)
    detach(optimizer, recorder)
    return optimizer.space.fingerprint()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at(place: str, when: int) -> Callable[[str, int], None]:
    def check(now: str, step: int) -> None:
        if (now, step) == (place, when):
            die()

    return check


def kill_inside_write(when: int, keep: int) -> Callable[[str, int], None]:
    """`keep` bytes of the record of step `when` reach the file, then the process is gone."""

    def check(now: str, step: int) -> None:
        if (now, step) == ("applied", when):
            whole = os.write

            def torn(file: int, data: bytes) -> int:
                whole(file, data[:keep])
                die()
                return 0

            os.write = torn  # type: ignore[assignment]

    return check


def kill_inside_attach(call: str, done: bool) -> Callable[[str, int], None]:
    """The process is gone just before (or after) the call of os by which a resuming run touches its log."""

    def check(now: str, step: int) -> None:
        if now == "attach":
            whole = getattr(os, call)

            def last(*arguments: Any) -> None:
                if done:
                    whole(*arguments)
                die()

            setattr(os, call, last)

    return check


def full_disk(when: int, keep: int) -> Callable[[str, int], None]:
    """The file system takes `keep` bytes of one record, and then no more."""

    def check(now: str, step: int) -> None:
        if (now, step) == ("applied", when):
            whole = os.write

            def refuse(file: int, data: bytes) -> int:
                if keep:
                    return whole(file, data[:keep])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            os.write = refuse  # type: ignore[assignment]

    return check


def attempt(action: Callable[[], None]) -> int:
    """`action` in a child of its own: its wait status."""
    child = os.fork()
    if child == 0:
        try:
            action()
        except TrajectoryError as error:
            print(error, file=sys.stderr)
            os._exit(3)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


Plan = tuple[str, tuple[Callable[[str, int], None], ...], int]


def plans() -> list[Plan]:
    """(name, faults of one attempt after the other, wait status of the last) of every run that is broken off."""
    killed, refused = int(signal.SIGKILL), 3 << 8
    found: list[tuple[str, Any, int]] = []
    for step in range(STEPS):
        found.append((f"before step {step}", kill_at("step", step), killed))
        found.append((f"after the weights moved in step {step}", kill_at("applied", step), killed))
    for step, keep in zip(range(STEPS), (0, 1, 9, 31, 48, 55, 56) * 3, strict=False):
        found.append((f"in the write of step {step} after {keep} bytes", kill_inside_write(step, keep), killed))
    for step in range(SAVE_EVERY, STEPS, SAVE_EVERY):
        for place in ("checkpoint begun", "checkpoint half", "checkpoint done"):
            found.append((f"{place} at {step}", kill_at(place, step), killed))
    for call, first in (("replace", 2), ("replace", 8), ("truncate", 8), ("fsync", 8)):  # set aside; copied; cut off
        for done in (False, True):
            name = f"resuming after step {first}, {'after' if done else 'before'} os.{call}"
            found.append((name, (kill_at("step", first), kill_inside_attach(call, done)), killed))
    for step, keep in ((0, 0), (7, 0), (9, 20), (14, 55)):
        found.append((f"disk full in step {step} after {keep} bytes", full_disk(step, keep), refused))
    return [(name, faults if isinstance(faults, tuple) else (faults,), status) for name, faults, status in found]


def write(path: Path, text: str) -> None:
    path.write_text(text)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    whole = folder / "whole"
    wanted = run(whole)  # in this process, so that its children find torch's lazy imports done
    for number, (name, faults, status) in enumerate(plans()):
        place = folder / str(number)
        for fault in faults:
            broken = attempt(lambda place=place, fault=fault: void(run(place, fault)))
        log = place / "trajectory.zoft"
        recorded = len(TrajectoryLog.read(log).steps) if log.exists() else 0
        resumed = attempt(lambda place=place: write(place / "result", run(place)))
        result = (place / "result").read_text() if resumed == 0 else "none"
        replayed = (
            replay(model(), TrajectoryLog.read(log), backend="reference").space.fingerprint()
            if resumed == 0
            else "none"
        )
        print(
            json.dumps(
                {
                    "name": name,
                    "stopped as planned": broken == status,
                    "recorded": recorded,
                    "resumed": result == wanted,
                    "replayed": replayed == wanted,
                }
            )
        )


def void(value: object) -> None:
    """A child has nothing to return to."""


if __name__ == "__main__":
    main(Path(sys.argv[1]))
