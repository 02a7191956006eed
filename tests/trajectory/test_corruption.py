"""A damaged log is refused, or read up to its last whole record: never a silently wrong model."""

from __future__ import annotations

import itertools
import json
import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.trajectory.runs import Tiny, recorded
from zoft.trajectory import TrajectoryError, TrajectoryLog, replay
from zoft.trajectory.compact import encode_compact
from zoft.trajectory.frame import COMPACT, FULL, VERSION, frame
from zoft.trajectory.header import Header
from zoft.trajectory.record import chain, record_bytes

Damage = Callable[[random.Random, bytearray, int, int], bytearray]


def flip(rng: random.Random, data: bytearray, start: int, size: int) -> bytearray:
    for _ in range(rng.choice([1, 1, 1, 2, 8])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def truncate(rng: random.Random, data: bytearray, start: int, size: int) -> bytearray:
    return data[: rng.randrange(len(data))]


def swap(rng: random.Random, data: bytearray, start: int, size: int) -> bytearray:
    a, b = (start + size * n for n in rng.sample(range((len(data) - start) // size), 2))
    data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]
    return data


def repeat(rng: random.Random, data: bytearray, start: int, size: int) -> bytearray:
    a = start + size * rng.randrange((len(data) - start) // size)
    return data[: a + size] + data[a:]


def remove(rng: random.Random, data: bytearray, start: int, size: int) -> bytearray:
    a = start + size * rng.randrange((len(data) - start) // size)
    return data[:a] + data[a + size :]


def overwrite(rng: random.Random, data: bytearray, start: int, size: int) -> bytearray:
    a = rng.randrange(len(data))
    data[a : a + 32] = rng.randbytes(len(data[a : a + 32])) if rng.random() < 0.7 else bytes(len(data[a : a + 32]))
    return data


def insert(rng: random.Random, data: bytearray, start: int, size: int) -> bytearray:
    a = rng.randrange(len(data) + 1)
    return data[:a] + rng.randbytes(rng.choice([1, 7, size])) + data[a:]


DAMAGES: list[Damage] = [flip, truncate, swap, repeat, remove, overwrite, insert]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes, TrajectoryLog]:
    """(full file, compact file, what they say) of a run of 30 steps."""
    path = tmp_path_factory.mktemp("run") / "log"
    recorded(path, 30, Tiny(width=2))
    log = TrajectoryLog.read(path)
    return path.read_bytes(), encode_compact(log), log


def test_one_thousand_corruptions(log: tuple[bytes, bytes, TrajectoryLog], tmp_path: Path) -> None:
    full, compact, whole = log
    path = tmp_path / "damaged"
    path.write_bytes(compact)
    published = TrajectoryLog.read(path)
    outcomes = {"refused": 0, "shorter": 0}
    for number in itertools.count():
        if sum(outcomes.values()) == 1000:
            break
        rng = random.Random(number)
        original, truth = (full, whole) if number % 2 else (compact, published)
        size = record_bytes(whole.header) if number % 2 else 5
        start = len(full) - 30 * size if number % 2 else len(compact) - 16 - 30 * size
        damaged = bytes(rng.choice(DAMAGES)(rng, bytearray(original), start, size))
        if damaged == original:  # two equal flips, or equal rows swapped
            continue
        path.write_bytes(damaged)
        try:
            read = TrajectoryLog.read(path)
        except TrajectoryError:
            outcomes["refused"] += 1
            continue
        assert number % 2, "a published log is never shortened"
        assert read.header == truth.header and read.steps == truth.steps[: len(read.steps)]
        assert len(read.steps) < len(truth.steps) or read.torn
        outcomes["shorter"] += 1
    assert min(outcomes.values()) > 10, outcomes


def test_a_damaged_record_names_itself_and_spares_those_before(
    log: tuple[bytes, bytes, TrajectoryLog], tmp_path: Path
) -> None:
    full, _, whole = log
    size = record_bytes(whole.header)
    data = bytearray(full)
    data[len(data) - 10 * size + 3] ^= 4
    (tmp_path / "log").write_bytes(data)
    with pytest.raises(TrajectoryError, match="damaged at the record of step 20"):
        TrajectoryLog.read(tmp_path / "log")
    intact = TrajectoryLog.read(tmp_path / "log", until=20)
    assert intact.steps == whole.steps[:20]
    one, other = (replay(Tiny(width=2), part).space.fingerprint() for part in (intact, whole.until(20)))
    assert one == other


def test_another_version_is_refused(log: tuple[bytes, bytes, TrajectoryLog], tmp_path: Path) -> None:
    for data in log[:2]:
        for other in (VERSION - 1, VERSION + 1):
            (tmp_path / "log").write_bytes(data[:8] + struct.pack("<I", other) + data[12:])
            with pytest.raises(TrajectoryError, match=f"version {other} of the log format, .* reads version {VERSION}"):
                TrajectoryLog.read(tmp_path / "log")


@pytest.mark.parametrize(
    "spoil",
    [
        {"parameters": []},
        {"parameters": [{"name": "w", "shape": [-1], "dtype": "float32"}]},
        {"parameters": [{"name": "w", "shape": [2**62, 8], "dtype": "float32"}]},
        {"capacity": 10**12},
        {"capacity": True},
        {"directions": 0},
        {"seed": -1},
        {"distribution": "cauchy"},
        {"rule": "sgd"},
        {"surprise": 1},
    ],
)
def test_a_forged_header_is_refused(spoil: dict, log: tuple[bytes, bytes, TrajectoryLog], tmp_path: Path) -> None:
    """The check of a header can be computed by anyone: what it says is checked too, before anything is allocated."""
    plain = {**json.loads(log[2].header.to_json()), **spoil}
    (tmp_path / "log").write_bytes(frame(FULL, json.dumps(plain).encode()))
    with pytest.raises(TrajectoryError, match="header"):
        TrajectoryLog.read(tmp_path / "log")
    forged = json.dumps({"header": plain, "steps": 10**15, "constant": {}}).encode()
    (tmp_path / "log").write_bytes(frame(COMPACT, forged) + bytes(40))
    with pytest.raises(TrajectoryError):
        TrajectoryLog.read(tmp_path / "log")


def test_a_name_in_a_log_is_only_looked_up(log: tuple[bytes, bytes, TrajectoryLog]) -> None:
    """A rule or estimator of a name that does not exist is refused; no name is ever imported or run."""
    for key in ("rule", "estimator"):
        for value in (
            {"name": "os.system", "command": "true"},
            {"nothing": 1},
            {"name": "__class__"},
            {"name": "sgd", "x": 1},
        ):
            plain = {**json.loads(log[2].header.to_json()), key: value}
            forged = TrajectoryLog(Header.from_json(json.dumps(plain).encode()), log[2].steps)
            with pytest.raises(TrajectoryError, match="cannot replay"):
                replay(Tiny(width=2), forged)


def test_a_forged_record_with_a_good_chain_is_still_checked(
    log: tuple[bytes, bytes, TrajectoryLog], tmp_path: Path
) -> None:
    full, _, whole = log
    size = record_bytes(whole.header)
    start = len(full) - 30 * size
    body = bytearray(full[start : start + size - 8])
    for offset, value in ((8, b"\xff\xff"), (0, struct.pack("<I", 7))):  # 65535 directions; another step's number
        forged = bytes(body[:offset] + value + body[offset + len(value) :])
        (tmp_path / "log").write_bytes(full[:start] + forged + chain(full[start - 16 : start], forged))
        with pytest.raises(TrajectoryError, match="claims"):
            TrajectoryLog.read(tmp_path / "log")
