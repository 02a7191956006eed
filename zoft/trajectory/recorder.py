"""Writing a log while a run goes on.

What is on the disk when:
- every record is one `write` to a file opened for appending: a killed process loses nothing that it had recorded;
- `fsync` follows at most `sync_seconds` (10) later, at every checkpoint and at the end: a power cut loses at most
that much,
  and never anything that a checkpoint builds upon;
- the header comes into being whole (written beside, synced, renamed);
- a write that fails (full disk) is cut off again, so no half record stays; the step in flight is the only one missing.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from zoft.estimate import Step
from zoft.optimizer import ZOOptimizer
from zoft.trajectory.errors import TrajectoryError
from zoft.trajectory.fingerprint import state_fingerprint
from zoft.trajectory.header import Header
from zoft.trajectory.mark import MARK, Mark, beside
from zoft.trajectory.record import chain, encode


class Recorder:
    """Appends every step it is told of: an observer of `optimizer`, made by `zoft.trajectory.attach`."""

    reads_weights = False  # when it is told of a step

    def __init__(
        self, optimizer: ZOOptimizer, path: Path, header: Header, count: int, check: bytes, sync_seconds: float = 10.0
    ) -> None:
        """Opens an existing log of `count` records, the last of which has `check`, for appending."""
        self._optimizer = optimizer
        self.path, self.header, self.sync_seconds = path, header, sync_seconds
        self._count, self._check = count, check
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND)
        self._size = os.fstat(self._file).st_size
        self._synced = time.monotonic()

    @property
    def steps(self) -> int:
        """Optimizer steps that the log covers, from step 0 (or from its header's first)."""
        return self.header.first + self._count

    def __call__(self, step: Step) -> None:
        """Append one step.

        Raises:
            TrajectoryError: it is not the next one, the log is closed, another process wrote to the file, or the file
                system refused; nothing of it stays in the log then.
        """
        if self._file < 0:
            raise TrajectoryError(f"{self.path} is closed; attach the optimizer again to go on recording")
        if step.index != self.steps:
            raise TrajectoryError(f"{self.path} waits for step {self.steps}, but was told of step {step.index}")
        body = encode(self.header, step)
        check = chain(self._check, body)
        if os.fstat(self._file).st_size != self._size:
            raise TrajectoryError(f"another process changed {self.path}; two runs must not share one output folder")
        self._write(body + check, step.index)
        self._count, self._check = self._count + 1, check
        if time.monotonic() - self._synced >= self.sync_seconds:
            self.sync()

    def _write(self, record: bytes, index: int) -> None:
        reason = "only a part of the record was accepted"
        try:
            if os.write(self._file, record) == len(record):
                self._size += len(record)
                return
        except OSError as error:
            reason = error.strerror or str(error)
        os.ftruncate(self._file, self._size)
        raise TrajectoryError(
            f"step {index} could not be recorded in {self.path}: {reason}. The log is whole up to step {self.steps}; "
            "make room and resume from the last checkpoint"
        )

    def sync(self) -> None:
        """Wait until all records are on the disk.

        Raises:
            TrajectoryError: the file system could not write what it had accepted.
        """
        try:
            os.fsync(self._file)
        except OSError as error:
            raise TrajectoryError(
                f"the records in {self.path} could not be brought to the disk: {error.strerror or error}; make room, and "
                "resume from a checkpoint that the log reaches"
            ) from error
        self._synced = time.monotonic()

    def checkpoint(self, folder: str | os.PathLike[str], state: str | None = None) -> None:
        """Leave a mark in a checkpoint folder, after the log is on the disk: call it when a checkpoint is written.

        `state` is the weights' state fingerprint where they are sharded, which all processes take together.
        Call `sync` before its weights are written: a checkpoint that is ahead of its log cannot be resumed from.
        """
        self.sync()
        write_whole(Path(folder) / MARK, self._mark(state).to_json())

    def _mark(self, state: str | None) -> Mark:
        optimizer = self._optimizer
        if optimizer.steps != self.steps or optimizer.space.torn or not optimizer.settled:
            return Mark(self.steps, self._check, None)
        if state is None and not optimizer.space.sharded:
            state = state_fingerprint(optimizer.space, optimizer.rule_state)
        return Mark(self.steps, self._check, state)

    def close(self, state: str | None = None) -> None:
        """Sync, close and leave a mark beside a log called trajectory.zoft; a second call does nothing. `state`: as above."""
        if self._file >= 0:
            try:
                self.sync()
            finally:
                os.close(self._file)
                self._file = -1
            if beside(self.path).name == MARK:
                write_whole(beside(self.path), self._mark(state).to_json())


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that is there completely or not at all, whatever happens meanwhile."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
