"""The first captured step of a run beside an ordinary one from the same weights."""

from __future__ import annotations

import torch

from zoft.backends import Target
from zoft.backends.base import panel_of
from zoft.errors import UsageError
from zoft.estimate import Step
from zoft.lockstep.perturbation import ALIKE, apart
from zoft.optimizer import ZOOptimizer
from zoft.rules import spend
from zoft.space import ParameterSpace, Slot

PANEL_ROWS = 256  # of a matrix, its last ones
MOST_BYTES = 64 << 20  # of weights that are compared


class Check:
    """Made before the step; `compare` after it."""

    def __init__(self, space: ParameterSpace, losses: list[float]) -> None:
        """
        Args:
            losses: of ordinary passes at the step's points.
        """
        self._space, self._losses = space, losses
        self._kept: list[tuple[Slot, Target]] = []  # what an ordinary update will be made to
        room = MOST_BYTES
        for slot in space.slots:
            part = _part(slot)
            room -= part.weight.nbytes
            if room >= 0:
                kept = None if part.residual is None else part.residual.clone()
                self._kept.append((slot, Target(part.weight.clone(), part.window, part.decays, kept)))

    def compare(self, optimizer: ZOOptimizer, step: Step, losses: list[float]) -> None:
        """Raises UsageError: losses that rounding does not explain, or weights other than an ordinary update leaves."""
        alike = max(ALIKE.get(weight.dtype, 0.0) for weight in optimizer.model.parameters())
        worst = max(map(apart, self._losses, losses), default=0.0)
        if not worst <= alike:
            raise UsageError(
                f"the first captured losses {losses} differ from ordinary ones {self._losses} by {worst:.2g} (relative), "
                f"and rounding explains {alike:.2g}: the loss depends on something that a graph does not repeat; take "
                "ordinary steps"
            )
        move, _ = spend(optimizer.rule, optimizer.rule_state, step)
        for slot, kept in self._kept:
            if move is not None:
                self._space.backend.axpby_(kept, [move], self._space.rounding)
            now = _part(slot)
            pairs = [(kept.weight, now.weight), (kept.residual, now.residual)]
            if not all(torch.equal(mine, theirs) for mine, theirs in pairs if mine is not None and theirs is not None):
                raise UsageError(
                    f"the first captured step left other bits in {slot.name} than an ordinary one (step {step.index}, "
                    f"coefficients {step.estimate.coefficients}): the weights are not those of any log now; take ordinary "
                    "steps from the last checkpoint, and please report it with your GPU and versions"
                )


def _part(slot: Slot) -> Target:
    """The last rows of a parameter."""
    shape = slot.window.shape
    residual = None if slot.residual is None else slot.residual.view(shape)
    whole = Target(slot.weight.detach().view(shape), slot.window, slot.decays, residual)
    return panel_of(whole, max(0, shape[0] - PANEL_ROWS), shape[0])
