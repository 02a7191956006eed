"""Reading a log."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from zoft.estimate import Step
from zoft.trajectory.errors import TrajectoryError
from zoft.trajectory.frame import COMPACT, DIGEST_BYTES, unframe
from zoft.trajectory.header import Header
from zoft.trajectory.record import CHECK_BYTES, chain, decode, record_bytes


@dataclass(frozen=True, slots=True)
class TrajectoryLog:
    """A run: where it started and every step it took."""

    header: Header
    steps: tuple[Step, ...]  # header.first, header.first + 1, ...
    checks: tuple[bytes, ...] = ()  # [steps + 1] the chain: header's, then one per record; empty for the compact form
    torn: int = 0  # bytes at the end that belong to no whole record

    @classmethod
    def read(cls, path: str | os.PathLike[str], until: int | None = None) -> TrajectoryLog:
        """The log at `path` (the full or the compact form), up to its last whole record or to step `until`.

        A record that was never written whole (the process or the machine stopped) ends the log. Everything else that
        does not match its check is damage.

        Args:
            until: the number of optimizer steps after which to stop; records behind are not read.

        Raises:
            TrajectoryError: not a log, another version of the format, damaged, or shorter than `until`.
        """
        name = str(path)
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise TrajectoryError(f"{name} cannot be read: {error.strerror or error}") from error
        magic, text, start = unframe(data, name)
        if magic == COMPACT:
            from zoft.trajectory.compact import decode_compact

            return decode_compact(text, data, start, name).until(until)
        header = Header.from_json(text)
        if until is not None:
            data = data[: start + max(0, until - header.first) * record_bytes(header)]
        steps, checks, torn = _records(header, data, start, name)
        return cls(header, steps, checks, torn).until(until)

    @property
    def end(self) -> int:
        """The number of optimizer steps after the last record."""
        return self.header.first + len(self.steps)

    def on(self, base: str) -> TrajectoryLog:
        """The same log with another name for its base model."""
        return replace(self, header=replace(self.header, base=base))

    def until(self, step: int | None) -> TrajectoryLog:
        """The part that leads to the weights after `step` optimizer steps; None: all of it.

        Raises:
            TrajectoryError: the log does not reach there.
        """
        if step is None or step == self.end:
            return self
        if not self.header.first <= step <= self.end:
            raise TrajectoryError(
                f"the log holds steps {self.header.first} to {self.end}; it does not reach step {step}"
            )
        count = step - self.header.first
        return replace(self, steps=self.steps[:count], checks=self.checks[: count + 1])


def _records(header: Header, data: bytes, start: int, name: str) -> tuple[tuple[Step, ...], tuple[bytes, ...], int]:
    """All whole records, the chain of checks, and the number of torn bytes behind them."""
    size = record_bytes(header)
    checks = [data[start - DIGEST_BYTES : start]]
    steps: list[Step] = []
    for offset in range(start, len(data) - size + 1, size):
        body, check = data[offset : offset + size - CHECK_BYTES], data[offset + size - CHECK_BYTES : offset + size]
        index = header.first + len(steps)
        if chain(checks[-1], body) != check:
            if _never_written(data, offset + size):
                return tuple(steps), tuple(checks), len(data) - offset
            raise TrajectoryError(
                f"{name} is damaged at the record of step {index}: it was edited, moved or overwritten "
                "after it was written; "
                f"the {len(steps)} records before it are intact (until={index} stops there)"
            )
        step = decode(header, body)
        if step.index != index:
            raise TrajectoryError(f"{name}: the record of step {index} claims to be step {step.index}")
        steps.append(step)
        checks.append(check)
    return tuple(steps), tuple(checks), (len(data) - start) % size


def _never_written(data: bytes, end: int) -> bool:
    """From the last byte of the record that ends at `end` to the end of the file there are only zeros.

    So it looks where a power cut came before the data: the file has grown already, its last pages are empty. The
    records before were checked, so dropping this one is safe even if it looks so by chance.
    """
    return not any(data[end - 1 :])
