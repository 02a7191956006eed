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
from zoft.trajectory.frame import DIGEST_BYTES, FULL, frame
from zoft.trajectory.header import Header, describe
from zoft.trajectory.log import TrajectoryLog
from zoft.trajectory.mark import MARK, Mark, beside, read_mark
from zoft.trajectory.record import chain, encode, record_bytes


class Recorder:
    """Appends every step it is told of: an observer of a `ZOOptimizer`, made by `attach`."""

    def __init__(self, path: Path, header: Header, count: int, check: bytes, sync_seconds: float = 10.0) -> None:
        """Opens an existing log of `count` records, the last of which has `check`, for appending."""
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

    def checkpoint(self, folder: str | os.PathLike[str]) -> None:
        """Leave a mark in a checkpoint folder, after the log is on the disk: call it when a checkpoint is written.

        Call `sync` before its weights are written: a checkpoint that is ahead of its log cannot be resumed from.
        """
        self.sync()
        write_whole(Path(folder) / MARK, Mark(self.steps, self._check).to_json())

    def close(self) -> None:
        """Sync and close; a second call does nothing."""
        if self._file >= 0:
            try:
                self.sync()
            finally:
                os.close(self._file)
                self._file = -1


def attach(
    optimizer: ZOOptimizer,
    path: str | os.PathLike[str],
    *,
    base: str = "",
    checkpoint: str | os.PathLike[str] | None = None,
    capacity: int | None = None,
    sync_seconds: float = 10.0,
) -> Recorder:
    """Record every step that `optimizer` takes from now on.

    At step 0 a new log is begun; a log that lies there already is set aside under the next free number. Later (after
    `load_state_dict`) the log there is continued: records after the present step are cut off, and a copy of the uncut
    log stays as `<name>.before-step-<n>.zoft` (a second one as `.before-step-<n>.2.zoft`). Without a log there, one is
    begun that starts at the present weights.

    Args:
        optimizer: its weights, step and rule state must be in place already.
        path: of the log file.
        base: name or folder of the model that training starts from, for `zoft replay` and the model card.
        checkpoint: the folder that was resumed from; where it holds a mark, the log must agree with it.
        capacity: (direction, coefficient) pairs a step may have; None: the optimizer's `directions`.
        sync_seconds: longest time that a record waits for `fsync`.

    Raises:
        TrajectoryError: the log ends before the present step, belongs to a run with other settings, or is damaged.
    """
    path = Path(path)
    try:
        if optimizer.steps == 0:
            _set_aside(path)
        if path.exists():
            recorder = _continue(optimizer, path, checkpoint, capacity, sync_seconds)
        else:
            _check_beginning(optimizer, path)
            recorder = _begin(describe(optimizer, base, capacity), path, sync_seconds)
        if beside(path).name == MARK:
            beside(path).unlink(missing_ok=True)  # the weights are at the log's end again
    except OSError as error:
        raise TrajectoryError(f"the log {path} cannot be written: {error.strerror or error}") from error
    optimizer.observers.append(recorder)
    return recorder


def _check_beginning(optimizer: ZOOptimizer, path: Path) -> None:
    """Raises TrajectoryError where a log from the present step could not be replayed."""
    if any(bool(buffer.any()) for buffer in optimizer.space.momenta.values()):
        raise TrajectoryError(
            f"there is no log {path} to go on with, and one that begins at step {optimizer.steps} could not be replayed: with "
            "zo_momentum_buffer=full it would lack the momentum. Resume in the run's own folder, take "
            "zo_momentum_buffer=window, or set zo_trajectory=false"
        )


def _begin(header: Header, path: Path, sync_seconds: float) -> Recorder:
    path.parent.mkdir(parents=True, exist_ok=True)
    start = frame(FULL, header.to_json())
    write_whole(path, start)
    return Recorder(path, header, 0, start[-DIGEST_BYTES:], sync_seconds)


def _continue(
    optimizer: ZOOptimizer,
    path: Path,
    checkpoint: str | os.PathLike[str] | None,
    capacity: int | None,
    sync_seconds: float,
) -> Recorder:
    log = TrajectoryLog.read(path)
    steps = optimizer.steps
    different = log.header.same_run(describe(optimizer, capacity=capacity, hash_weights=False))
    if different:
        raise TrajectoryError(
            f"{path} was written by a run with other settings ({', '.join(different)}); resume with those, or "
            "move it away to begin a new log from here"
        )
    if not log.header.first <= steps <= log.end:
        raise TrajectoryError(
            f"{path} holds steps {log.header.first} to {log.end}, but the checkpoint is at step {steps}; "
            "resume from another checkpoint, or move the log away to begin a new one from here"
        )
    count = steps - log.header.first
    _agree(log, steps, checkpoint, path)
    if len(log.steps) > count:
        _keep_uncut(path, steps)
    size = path.stat().st_size - log.torn - (len(log.steps) - count) * record_bytes(log.header)
    os.truncate(path, size)
    return Recorder(path, log.header, count, log.checks[count], sync_seconds)


def _agree(log: TrajectoryLog, steps: int, checkpoint: str | os.PathLike[str] | None, path: Path) -> None:
    """Raises TrajectoryError unless the mark in the checkpoint folder, where there is one, is on the log's chain."""
    mark = None if checkpoint is None else read_mark(Path(checkpoint))
    if mark is not None and (mark.steps != steps or not mark.on(log)):
        raise TrajectoryError(
            f"{path} tells of other steps than those that led to {checkpoint}: they come from different "
            "runs; move the log away to begin a new one from here"
        )


def _keep_uncut(path: Path, steps: int) -> None:
    """A copy of a log that is about to be cut, under a name that no other copy has; one copy of the same bytes is enough."""
    whole, number = path.read_bytes(), 1
    while True:
        copy = path.with_name(f"{path.stem}.before-step-{steps}{f'.{number}' if number > 1 else ''}{path.suffix}")
        if not copy.exists():
            write_whole(copy, whole)
            return
        if copy.read_bytes() == whole:  # an earlier resume made it and was then stopped
            return
        number += 1


def _set_aside(path: Path) -> None:
    """Rename a log that a new run would overwrite."""
    if not path.exists():
        return
    number = 1
    while (old := path.with_name(f"{path.stem}.{number}{path.suffix}")).exists():
        number += 1
    os.replace(path, old)


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
