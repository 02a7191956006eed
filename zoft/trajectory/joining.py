"""Where a run's log begins, and whether one that lies there is gone on with."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from zoft.optimizer import ZOOptimizer
from zoft.trajectory.errors import TrajectoryError
from zoft.trajectory.fingerprint import Fingerprints, state_fingerprint
from zoft.trajectory.frame import DIGEST_BYTES, FULL, frame
from zoft.trajectory.header import Header, describe
from zoft.trajectory.log import TrajectoryLog
from zoft.trajectory.mark import MARK, Mark, beside, read_mark
from zoft.trajectory.record import record_bytes
from zoft.trajectory.recorder import Recorder, write_whole

logger = logging.getLogger(__name__)


def attach(
    optimizer: ZOOptimizer,
    path: str | os.PathLike[str],
    *,
    base: str = "",
    checkpoint: str | os.PathLike[str] | None = None,
    capacity: int | None = None,
    sync_seconds: float = 10.0,
    known: Fingerprints | None = None,
) -> Recorder:
    """Record every step that `optimizer` takes from now on.

    At step 0 a new log is begun; a log that lies there already is set aside under the next free number. Later (after
    `load_state_dict`) the log there is continued: records after the present step are cut off, and a copy of the uncut
    log stays as `<name>.before-step-<n>.zoft` (a second one as `.before-step-<n>.2.zoft`). Without a log there, one is
    begun that starts at the present weights; also, with a warning, where the mark in `checkpoint`, or that which closing left
    beside the log, tells of other weights, residual bits, momenta or rule state than the present ones. Where no mark
    tells of the present step (a process that was killed; `rewind`), they are taken on trust.

    Args:
        optimizer: its weights, step and rule state must be in place already.
        path: of the log file.
        base: name or folder of the model that training starts from, for `zoft replay` and the model card.
        checkpoint: the folder that was resumed from; the log must agree with the mark in it.
        capacity: (direction, coefficient) pairs a step may have; None: the optimizer's `directions`.
        sync_seconds: longest time that a record waits for `fsync`.
        known: of a sharded model, whose weights one process cannot read alone.

    Raises:
        TrajectoryError: the log ends before the present step, belongs to a run with other settings, or is damaged.
    """
    path = Path(path)
    optimizer.settle()
    try:
        if optimizer.steps == 0:
            if path.exists():
                _set_aside(path)
        elif path.exists() and not _leads_here(optimizer, path, checkpoint, capacity, known):
            _check_beginning(optimizer, path)
            old = _set_aside(path)
            logger.warning(
                "the log %s does not lead to the present weights (they were loaded without optimizer state, or changed "
                "since): it stays as %s, and a new one begins at step %d, whose replay starts from the present weights",
                path, old.name, optimizer.steps,
            )  # fmt: skip
        if path.exists():
            recorder = _continue(optimizer, path, capacity, sync_seconds)
        else:
            _check_beginning(optimizer, path)
            start = base if optimizer.steps == 0 else str(checkpoint or "")
            recorder = _begin(optimizer, describe(optimizer, start, capacity, known=known), path, sync_seconds)
        if beside(path).name == MARK:
            beside(path).unlink(missing_ok=True)  # the weights are at the log's end again
    except OSError as error:
        raise TrajectoryError(f"the log {path} cannot be written: {error.strerror or error}") from error
    optimizer.space.torn = False  # the log goes on from, or begins with, the weights as they are
    optimizer.observers.append(recorder)
    return recorder


def _check_beginning(optimizer: ZOOptimizer, path: Path) -> None:
    """Raises TrajectoryError where a log from the present step could not be replayed."""
    if not optimizer.space.momenta.fresh:
        full = "buffer" in optimizer.rule.settings()
        what = "zo_momentum_buffer=full" if full else f"zo_rule={optimizer.rule.name}"
        raise TrajectoryError(
            f"there is no log {path} that leads here, and one that begins at step {optimizer.steps} could not be replayed: "
            f"with {what} it would lack what the rule keeps beside the weights. Resume in the run's own folder"
            f"{', take zo_momentum_buffer=window' if full else ''}, or set zo_trajectory=false"
        )


def _begin(optimizer: ZOOptimizer, header: Header, path: Path, sync_seconds: float) -> Recorder:
    path.parent.mkdir(parents=True, exist_ok=True)
    start = frame(FULL, header.to_json())
    write_whole(path, start)
    return Recorder(optimizer, path, header, 0, start[-DIGEST_BYTES:], sync_seconds)


def _leads_here(
    optimizer: ZOOptimizer,
    path: Path,
    checkpoint: str | os.PathLike[str] | None,
    capacity: int | None,
    known: Fingerprints | None,
) -> bool:
    """Whether the log leads to where `optimizer` stands, as far as marks tell.

    Raises:
        TrajectoryError: it is another run's.
    """
    log, steps = _readable(optimizer, path, capacity), optimizer.steps
    if checkpoint is not None:
        mark = read_mark(Path(checkpoint))
        if mark is None:
            return False
        _agree(log, steps, mark, path, checkpoint)
    else:
        mark = read_mark(path.parent) if beside(path).name == MARK else None
        if mark is None or mark.steps != steps:
            return True
    return mark.state == (known.state if known else state_fingerprint(optimizer.space, optimizer.rule_state))


def _readable(optimizer: ZOOptimizer, path: Path, capacity: int | None) -> TrajectoryLog:
    """The log at `path`. TrajectoryError unless it has the present settings and reaches the present step."""
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
    return log


def _continue(optimizer: ZOOptimizer, path: Path, capacity: int | None, sync_seconds: float) -> Recorder:
    log, steps = _readable(optimizer, path, capacity), optimizer.steps
    count = steps - log.header.first
    if len(log.steps) > count:
        _keep_uncut(path, steps)
    size = path.stat().st_size - log.torn - (len(log.steps) - count) * record_bytes(log.header)
    os.truncate(path, size)
    return Recorder(optimizer, path, log.header, count, log.checks[count], sync_seconds)


def _agree(log: TrajectoryLog, steps: int, mark: Mark, path: Path, checkpoint: str | os.PathLike[str]) -> None:
    """Raises TrajectoryError unless the mark in the checkpoint folder is on the log's chain."""
    if mark.steps != steps or not mark.on(log):
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


def _set_aside(path: Path) -> Path:
    """Rename a log that a new one would overwrite. Returns its new name."""
    number = 1
    while (old := path.with_name(f"{path.stem}.{number}{path.suffix}")).exists():
        number += 1
    os.replace(path, old)
    return old
