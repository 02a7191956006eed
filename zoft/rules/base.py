"""The contract of an update rule: arithmetic on scalars that says which multiples of which directions move the weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from zoft.backends import Move
from zoft.directions import Direction
from zoft.estimate import Step

State = dict[str, Any]  # plain JSON values only: it goes into checkpoints and is rebuilt by replay


class Rule(ABC):
    """(init, move): a rule keeps scalars and addresses of directions. Tensors as large as the weights are the space's."""

    name: str
    # Whether coefficients and learning rates are rounded to float32 before they are spent, because a published step then
    # takes 4 bytes for each. They are known to fewer digits than that: an estimate's first three digits are noise.
    single = False
    curved = False  # reads the curvatures of an estimate
    sums = True  # whether its moves are sums of multiples of directions; otherwise they are spent tensor by tensor
    buffers: tuple[str, ...] = ()  # of `zoft.buffers`: tensors as large as the weights that its moves go through

    def init(self) -> State:
        """The state before the first step."""
        return {}

    def check(self, directions: Sequence[Direction]) -> None:
        """Raises UsageError where the directions of a step cannot be spent by this rule."""
        del directions

    @abstractmethod
    def move(self, state: State, step: Step) -> tuple[Move, State]:
        """What `step` does to the weights, decay apart, and the state after it. `state` is not changed."""

    def settings(self) -> State:
        """What the log's header must hold to rebuild this rule: name and hyper-parameters."""
        return {"name": self.name}


DEBT = "decay_debt"  # in a rule's state: weight decay that was asked for and not yet applied, as a share of the weights
LEAST_DECAY = 2.0**-16  # 256 spacings of float32 below 1: rounding then blurs a decay by less than 1 %


def spend(rule: Rule, state: State, step: Step) -> tuple[Move | None, State]:
    """The move that a step makes: what the optimizer hands to the weights, and what replay repeats.

    Decoupled weight decay, a = 1 - lr * weight_decay, through a debt (`pay`). A skipped step moves nothing and leaves
    the state as it was.
    """
    if step.flags.skipped:
        return None, state
    if rule.single:
        step = in_single(step)
    debt = state.get(DEBT, 0.0) + step.lr * step.weight_decay
    decay, debt = pay(debt)
    key = (step.estimate.directions[0].seed, step.index)  # its own bits for every step, whatever its directions
    move, after = rule.move(state, step)
    after = {name: value for name, value in after.items() if name != DEBT} | ({DEBT: debt} if debt else {})
    return replace(move, decay=decay, rounding_key=key), after


def in_single(step: Step) -> Step:
    """The step with coefficients and learning rate rounded to float32; rounding them again changes nothing.

    A number beyond float32 becomes infinite, as it would in the accumulator.
    """
    with np.errstate(over="ignore"):
        coefficients = np.array(step.estimate.coefficients, np.float32).tolist()
        curvatures = np.array(step.estimate.curvatures, np.float32).tolist()
        lr = float(np.float32(step.lr))
    rounded = replace(step.estimate, coefficients=tuple(coefficients), curvatures=tuple(curvatures))
    return replace(step, estimate=rounded, lr=lr)


def pay(debt: float) -> tuple[float, float]:
    """(the factor a by which weights are multiplied now, the debt that is left), from a debt in float64.

    Weights are multiplied in float32, where 1 - lr * weight_decay is 1 as soon as lr * weight_decay < 2^-25, and blurred by
    up to half of itself not far above: at zeroth-order rates such a decay would vanish, or double. So it is added up, and
    paid once the sum is at least `LEAST_DECAY`; what float32 cannot hold of a payment stays owed (it may be below zero). Paying
    late changes the weights by less than LEAST_DECAY of the decay itself. The debt is in the rule's state, so checkpoints hold
    it and replay repeats it. A factor that float32 holds exactly is the same in every accumulator.

    >>> pay(1e-7), pay(2.0**-16)
    ((1.0, 1e-07), (0.9999847412109375, 0.0))
    """
    if debt < LEAST_DECAY:
        return 1.0, debt
    factor = float(np.float32(1.0 - debt))
    return factor, debt - (1.0 - factor)
