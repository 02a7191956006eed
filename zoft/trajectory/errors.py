"""What can be wrong with a log."""

from zoft.errors import UsageError


class TrajectoryError(UsageError):
    """A log that cannot be written, read or replayed; the message says where and what can be done."""
