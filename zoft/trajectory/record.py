"""One step as bytes.

    index u32 | flags u16 | evaluations u16 | count u16 | lr f64 | weight decay f64 | loss f64
    then `capacity` times: coefficient f64 | direction's step u32 | direction's index u16
    then, of rules that read curvatures, `capacity` times: curvature f64
    then check: 8 bytes

All little endian; 42 + 14 capacity bytes: 56 at q = 1. The check of record n is blake2b(check of record n - 1, record
n), that of the first one starts from the header's: a record that was edited, moved, repeated or left out breaks the
chain at that place. The chain finds accidents; it is no signature, as anyone can compute it anew.
"""

from __future__ import annotations

import hashlib
import struct

from zoft.estimate import Estimate, Flag, Step
from zoft.trajectory.errors import TrajectoryError
from zoft.trajectory.header import Header

CHECK_BYTES = 8
_FIXED = struct.Struct("<IHHHddd")
_PAIR = struct.Struct("<dIH")
_CURVATURE = struct.Struct("<d")


def record_bytes(header: Header) -> int:
    """Size of every record of this log, check included."""
    return _FIXED.size + header.capacity * (_PAIR.size + _curvature_bytes(header)) + CHECK_BYTES


def _curvature_bytes(header: Header) -> int:
    return _CURVATURE.size if header.curved else 0


def chain(previous: bytes, body: bytes) -> bytes:
    """The check of a record, from the check before it and its own bytes."""
    return hashlib.blake2b(previous + body, digest_size=CHECK_BYTES).digest()


def encode(header: Header, step: Step) -> bytes:
    """A record without its check.

    Raises:
        TrajectoryError: the step is not one of this run (seed, distribution), or does not fit the record.
    """
    directions, coefficients = step.estimate.directions, step.estimate.coefficients
    source = header.source
    if any(d != source.direction(d.step, d.index) for d in directions):
        raise TrajectoryError(f"step {step.index} was spent along directions of another run than this log's")
    if not 1 <= len(directions) <= header.capacity:
        raise TrajectoryError(
            f"step {step.index} has {len(directions)} directions, but this log's records hold 1 to {header.capacity}"
        )
    try:
        body = _FIXED.pack(
            step.index,
            int(step.flags),
            step.evaluations,
            len(directions),
            step.lr,
            step.weight_decay,
            step.estimate.loss,
        )
        body += b"".join(_PAIR.pack(c, d.step, d.index) for d, c in zip(directions, coefficients, strict=True))
    except struct.error as error:
        raise TrajectoryError(f"step {step.index} does not fit a record of the log: {error}") from error
    body += bytes((header.capacity - len(directions)) * _PAIR.size)
    curvatures = b"".join(map(_CURVATURE.pack, step.estimate.curvatures)) if header.curved else b""
    return body + curvatures.ljust(header.capacity * _curvature_bytes(header), b"\0")


def decode(header: Header, body: bytes) -> Step:
    """The step that `encode` wrote.

    Raises:
        TrajectoryError: numbers that no step has.
    """
    index, flags, evaluations, count, lr, weight_decay, loss = _FIXED.unpack_from(body)
    if not 1 <= count <= header.capacity:
        raise TrajectoryError(f"the record of step {index} claims {count} directions of {header.capacity}")
    pairs = [_PAIR.unpack_from(body, _FIXED.size + i * _PAIR.size) for i in range(count)]
    source, start = header.source, _FIXED.size + header.capacity * _PAIR.size
    places = range(start, start + count * _CURVATURE.size, _CURVATURE.size) if header.curved else ()
    estimate = Estimate(
        directions=tuple(source.direction(step, number) for _, step, number in pairs),
        coefficients=tuple(coefficient for coefficient, _, _ in pairs),
        loss=loss,
        curvatures=tuple(_CURVATURE.unpack_from(body, place)[0] for place in places),
    )
    return Step(index, estimate, lr, weight_decay, Flag(flags), evaluations)
