"""The beginning of every log file: what it is, which version, and its header with a check.

magic 8 bytes | version u32 | header length u32 | header (JSON) | check 16 bytes
"""

from __future__ import annotations

import hashlib
import struct

from zoft.trajectory.errors import TrajectoryError

VERSION = 2  # 1: normals took two words a pair
FULL, COMPACT = b"zoft-log", b"zoft-cpt"
DIGEST_BYTES = 16
HEADER_LIMIT = 1 << 26  # bytes: a header of 500,000 parameters
_PREAMBLE = struct.Struct("<8sII")


def digest(*parts: bytes) -> bytes:
    """16 bytes of blake2b over the parts, in order."""
    state = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        state.update(part)
    return state.digest()


def frame(magic: bytes, header: bytes) -> bytes:
    """The first bytes of a file; its records follow."""
    start = _PREAMBLE.pack(magic, VERSION, len(header)) + header
    return start + digest(start)


def unframe(data: bytes, name: str) -> tuple[bytes, bytes, int]:
    """(magic, header, where the records start) of a file.

    Raises:
        TrajectoryError: not a log, another version, cut off, or damaged. Nothing is allocated beyond the data given.
    """
    if len(data) < _PREAMBLE.size or data[:8] not in (FULL, COMPACT):
        raise TrajectoryError(f"{name} is not a zoft trajectory log")
    magic, version, length = _PREAMBLE.unpack_from(data)
    if version != VERSION:
        raise TrajectoryError(
            f"{name} has version {version} of the log format, this zoft reads version {VERSION}; "
            "use the zoft that wrote it"
        )
    end = _PREAMBLE.size + length
    if length > HEADER_LIMIT or end + DIGEST_BYTES > len(data):
        raise TrajectoryError(f"{name} ends inside its header: nothing in it can be replayed")
    if digest(data[:end]) != data[end : end + DIGEST_BYTES]:
        raise TrajectoryError(f"{name} has a damaged header: its check does not match")
    return magic, data[_PREAMBLE.size : end], end + DIGEST_BYTES
