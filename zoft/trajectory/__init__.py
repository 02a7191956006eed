"""A run as a log of (seed, scalars): record it, resume it, go back in it, and rebuild the weights from it."""

from zoft.trajectory.errors import TrajectoryError
from zoft.trajectory.header import Header
from zoft.trajectory.joining import attach
from zoft.trajectory.log import TrajectoryLog
from zoft.trajectory.recorder import Recorder
from zoft.trajectory.replay import Replayed, merge, replay
from zoft.trajectory.rewind import Snapshot, rewind

__all__ = [
    "Header",
    "Recorder",
    "Replayed",
    "Snapshot",
    "TrajectoryError",
    "TrajectoryLog",
    "attach",
    "merge",
    "replay",
    "rewind",
]
