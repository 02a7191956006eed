"""The form for publishing: as few bytes a step as replay needs, written once.

A table of fixed-size rows between the header and one check over everything (16 bytes of blake2b): a published file is
never torn, so whatever does not match is refused. What is the same in all steps stands once in the header instead of
in the rows, and the directions of step n are numbers 0 ... q-1 of step n. There are two kinds of rows:

- `spent` (sgd): what was really added, the scales -lr c and the decay factor, in the type the backend rounds them to
  (float32; float64 if a weight is float64). 5 bytes at q = 1, 9 with a decay that varies.
- `estimated` (rules with a state): coefficients and learning rate in float32, to which these rules round them before
  they spend them (`Rule.single`), and so curvatures, where the rule reads them; weight decay in float64. 5 bytes at
  q = 1, 9 with a learning rate that varies.

Two bytes more if the number of micro-batches varies.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from zoft.estimate import Estimate, Flag, Step
from zoft.rules import in_single, rule, spend
from zoft.trajectory.errors import TrajectoryError
from zoft.trajectory.frame import COMPACT, DIGEST_BYTES, digest, frame
from zoft.trajectory.header import Header
from zoft.trajectory.log import TrajectoryLog

FLAGS, EVALUATIONS, LR, DECAY = "flags", "evaluations", "lr", "weight_decay"


def encode_compact(log: TrajectoryLog) -> bytes:
    """A log in the compact form: replay of the one equals replay of the other, bit for bit.

    Raises:
        TrajectoryError: it is empty, or a step used other directions than its own.
    """
    header, steps = log.header, log.steps
    if not steps:
        raise TrajectoryError("there is nothing to publish: the log holds no steps")
    source, counts = header.source, header.counts
    for step in steps:
        if step.estimate.directions != source.at(step.index, counts.at(step.index)):
            raise TrajectoryError(f"step {step.index} used other directions than its own; publish the full log instead")
    spent, real = _kind(header)
    if spent:
        header, steps = _as_spent(header, steps, real)
    else:
        steps = tuple(map(in_single, steps))
    constant = {}
    for name in (EVALUATIONS, LR, DECAY):
        values = {getattr(step, name) for step in steps}
        if len(values) == 1:
            constant[name] = values.pop()
    table = np.zeros(len(steps), _row(header, constant))
    table[FLAGS] = [int(step.flags) for step in steps]
    for row, step in zip(table["numbers"], steps, strict=True):
        estimate = step.estimate
        if not step.flags.skipped:
            row[: len(estimate.coefficients)] = estimate.coefficients
            row[header.directions : header.directions + len(estimate.curvatures)] = estimate.curvatures
    for name in (EVALUATIONS, LR, DECAY):
        if name not in constant:
            table[name] = [
                1.0 - step.weight_decay if spent and name == DECAY else getattr(step, name) for step in steps
            ]
    plain = {"header": asdict(header), "steps": len(steps), "constant": constant}
    start = frame(COMPACT, json.dumps(plain, allow_nan=False, separators=(",", ":")).encode())
    rows = table.tobytes()
    return start + rows + digest(start, rows)


def decode_compact(text: bytes, data: bytes, start: int, name: str) -> TrajectoryLog:
    """The log in a compact file: JSON `text`, rows from byte `start` of `data`.

    With sgd a step comes back as lr = 1 and coefficients c' = lr c, whose move is the same.

    Raises:
        TrajectoryError: damaged, or not of this version.
    """
    if digest(data[:start], data[start:-DIGEST_BYTES]) != data[-DIGEST_BYTES:]:
        raise TrajectoryError(f"{name} is damaged or cut off: its check does not match; fetch it again")
    try:
        plain: dict[str, Any] = json.loads(text)
        header = Header.from_json(json.dumps(plain["header"]).encode())
        constant = {key: float(value) for key, value in plain["constant"].items()}
        row = _row(header, constant)
        size = len(data) - start - DIGEST_BYTES
        if not constant.keys() <= {EVALUATIONS, LR, DECAY} or size != plain["steps"] * row.itemsize:
            raise TrajectoryError(f"{name} does not hold the number of steps that its header says")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        if isinstance(error, TrajectoryError):
            raise
        raise TrajectoryError(f"{name} has a header that cannot be read: {error}") from error
    table = np.frombuffer(data, row, count=plain["steps"], offset=start)
    source, counts = header.source, header.counts
    spent, _ = _kind(header)
    columns = {key: table[key].tolist() if key in (row.names or ()) else None for key in (EVALUATIONS, LR, DECAY)}

    def value(key: str, place: int) -> float:
        column = columns[key]
        return constant[key] if column is None else column[place]

    steps = []
    for place, (flags, numbers) in enumerate(zip(table[FLAGS].tolist(), table["numbers"].tolist(), strict=True)):
        index = header.first + place
        decay = value(DECAY, place)
        q, most = counts.at(index), header.directions
        curvatures = tuple(numbers[most : most + q])
        estimate = Estimate(source.at(index, q), tuple(numbers[:q]), math.nan, curvatures)
        if spent and DECAY not in constant:
            decay = 1.0 - decay
        steps.append(Step(index, estimate, value(LR, place), decay, Flag(flags), int(value(EVALUATIONS, place))))
    return TrajectoryLog(header, tuple(steps))


def _kind(header: Header) -> tuple[bool, str]:
    """(rows hold what was spent, their real type)."""
    spent = header.rule.get("name") == "sgd"
    wide = spent and any(parameter.dtype == "float64" for parameter in header.parameters)
    return spent, "<f8" if wide else "<f4"


def _numbers(header: Header) -> int:
    """Of one row: coefficients and, of rules that read them, curvatures."""
    return header.directions * (2 if header.curved else 1)


def _row(header: Header, constant: dict[str, Any]) -> np.dtype:
    spent, real = _kind(header)
    columns: list[Any] = [(FLAGS, "<u1"), ("numbers", real, (_numbers(header),))]
    for name, kind in ((EVALUATIONS, "<u2"), (LR, "<f8" if spent else "<f4"), (DECAY, real if spent else "<f8")):
        if name not in constant:
            columns.append((name, kind))
    return np.dtype(columns)


def _as_spent(header: Header, steps: Sequence[Step], real: str) -> tuple[Header, tuple[Step, ...]]:
    """The same moves with lr = 1: c' = lr c as the backend rounds it, and the decay that was paid, which leaves no debt."""
    made, state = rule(**header.rule), header.rule_state
    found = []
    for step in steps:
        move, state = spend(made, state, step)
        scales = _rounded([-step.lr * c for c in step.estimate.coefficients], real)
        decay = 1.0 if move is None else move.decay
        estimate = Estimate(step.estimate.directions, tuple(-scale for scale in scales), math.nan)
        found.append(Step(step.index, estimate, 1.0, 1.0 - decay, step.flags, step.evaluations))
    return replace(header, rule_state=made.init()), tuple(found)


def _rounded(values: Sequence[float], real: str) -> list[float]:
    return np.array(values, real).tolist()
