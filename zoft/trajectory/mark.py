"""Where on a log some weights stand, and which: a small file in a checkpoint's folder, and beside a log that is closed.

A run that loads its best checkpoint at the end leaves weights which its log passed earlier. The mark beside the log says so,
and replay, pack and `from_trajectory` stop there unless another step is asked for. A log is only gone on with from the weights
that its mark tells of. The mark goes when the log goes on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from zoft.trajectory.errors import TrajectoryError
from zoft.trajectory.log import TrajectoryLog

MARK = "trajectory.json"


@dataclass(frozen=True, slots=True)
class Mark:
    """A place on a log."""

    steps: int  # optimizer steps since step 0
    check: bytes  # of the log's chain there
    state: str | None = None  # fingerprint of all that a run goes on from; None: no step of the log leads to it

    def to_json(self) -> bytes:
        return json.dumps({"steps": self.steps, "check": self.check.hex(), "state": self.state}).encode()

    def on(self, log: TrajectoryLog) -> bool:
        """Whether the log passes here; the compact form, which has no chain, is believed."""
        if not log.header.first <= self.steps <= log.end:
            return False
        return not log.checks or log.checks[self.steps - log.header.first] == self.check


def read_mark(folder: Path) -> Mark | None:
    """The mark in `folder`; None without one.

    Raises:
        TrajectoryError: it cannot be read.
    """
    file = folder / MARK
    if not file.exists():
        return None
    try:
        plain = json.loads(file.read_bytes())
        return Mark(int(plain["steps"]), bytes.fromhex(plain["check"]), plain.get("state"))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise TrajectoryError(f"{file} cannot be read: {error}") from error


def beside(log: Path) -> Path:
    """Where the mark of `log` lies, if it has one: trajectory.zoft -> trajectory.json."""
    return log.with_suffix(".json")


def read_to_mark(path: Path, until: int | None = None) -> TrajectoryLog:
    """The log at `path` up to `until`, by default up to the mark beside it, or whole without one.

    Raises:
        TrajectoryError: not a log, a damaged one, shorter than `until`, or a mark of another log.
    """
    mark = read_mark(path.parent) if until is None and beside(path).name == MARK else None
    if mark is None:
        return TrajectoryLog.read(path, until)
    log = TrajectoryLog.read(path)
    if not mark.on(log):
        raise TrajectoryError(
            f"{path.parent / MARK} marks step {mark.steps} of another log than {path}; say the step (until, --until), or "
            "delete the mark to take the whole log"
        )
    return log.until(mark.steps)
