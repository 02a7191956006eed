"""Back to an earlier step, inside a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from zoft.optimizer import ZOOptimizer
from zoft.rules import State
from zoft.trajectory.errors import TrajectoryError
from zoft.trajectory.header import Header, describe
from zoft.trajectory.log import TrajectoryLog
from zoft.trajectory.replay import advance


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The trained weights at one step, in CPU memory: a place from which steps can be replayed."""

    step: int  # optimizer steps taken before it
    weights: dict[str, torch.Tensor]  # by canonical name
    residuals: dict[str, torch.Tensor]
    momenta: dict[str, torch.Tensor]  # the buffers of a rule that has some
    rule_state: State
    skipped: int

    @classmethod
    def take(cls, optimizer: ZOOptimizer) -> Snapshot:
        """A copy of where `optimizer` stands; as many bytes as the trained weights."""
        optimizer.settle()
        return cls(
            step=optimizer.steps,
            weights={slot.name: _copy(slot.weight) for slot in optimizer.space.slots},
            residuals={name: _copy(bits) for name, bits in optimizer.space.residuals()},
            momenta={name: _copy(buffer) for name, buffer in optimizer.space.momenta.items()},
            rule_state=optimizer.rule_state,
            skipped=optimizer.skipped,
        )

    @classmethod
    def of_state(cls, state: dict[str, Any]) -> Snapshot:
        """From a checkpoint's fields; its tensors go to CPU memory, wherever they were loaded to."""
        copies = {name: value for name, value in state.items() if name in ("weights", "residuals", "momenta")}
        kept = {name: {key: tensor.cpu() for key, tensor in value.items()} for name, value in copies.items()}
        return cls(**{**state, **kept})


def rewind(optimizer: ZOOptimizer, log: TrajectoryLog, step: int, start: Snapshot) -> None:
    """Put the weights, residual bits, rule state and step counter where they were after `step` steps, bit for bit.

    The snapshot is put back and the steps between it and `step` are replayed. A recorder that is attached must be
    closed before and attached again afterwards: that cuts the log to `step`.

    Args:
        optimizer: of the run that wrote the log.
        log: of this run, at least up to `step`.
        step: >= start.step.
        start: taken in this run at or before `step`; the nearer, the quicker.

    Raises:
        TrajectoryError: the log is another run's, or does not lead from the snapshot to `step`.
    """
    different = log.header.same_run(_header_like(optimizer, log.header))
    if different:
        raise TrajectoryError(f"the log belongs to a run with other settings: {', '.join(different)}")
    if not (log.header.first <= start.step <= step <= log.end):
        raise TrajectoryError(
            f"cannot rewind to step {step} from a snapshot of step {start.step} and a log of steps "
            f"{log.header.first} to {log.end}; the snapshot must not be later, and the log must reach there"
        )
    steps = log.steps[start.step - log.header.first : step - log.header.first]
    if [taken.index for taken in steps] != list(range(start.step, step)):
        raise TrajectoryError(f"the log does not hold steps {start.step} to {step}, each once and in order")
    optimizer.discard()
    optimizer.space.load_weights(start.weights)
    optimizer.space.load_residuals(start.residuals)
    optimizer.space.momenta.load(start.momenta)
    optimizer.rule_state = advance(optimizer.space, log.header, steps, start.rule_state)
    optimizer.steps = step
    optimizer.skipped = start.skipped + sum(taken.flags.skipped for taken in steps)
    optimizer.last = steps[-1] if steps else None


def _header_like(optimizer: ZOOptimizer, header: Header) -> Header:
    return describe(optimizer, capacity=header.capacity, hash_weights=False)


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True)
