"""The contract of an update rule: arithmetic on scalars that says which multiples of which directions move the weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from zoft.backends import Move, Term
from zoft.estimate import Step

State = dict[str, Any]  # plain JSON values only: it goes into checkpoints and is rebuilt by replay


class Rule(ABC):
    """(init, update): a rule keeps scalars and addresses of directions, never a tensor as large as the weights."""

    name: str

    def init(self) -> State:
        """The state before the first step."""
        return {}

    @abstractmethod
    def update(self, state: State, step: Step) -> tuple[tuple[Term, ...], State]:
        """The displacement that `step` adds to the weights, as terms, and the state after it. `state` is not changed."""

    def settings(self) -> State:
        """What the log's header must hold to rebuild this rule: name and hyper-parameters."""
        return {"name": self.name}


def spend(rule: Rule, state: State, step: Step) -> tuple[Move | None, State]:
    """The move that a step makes: what the optimizer hands to the weights, and what replay repeats.

    Decoupled weight decay: a = 1 - lr * weight_decay. A skipped step moves nothing and leaves the state as it was.
    """
    if step.flags.skipped:
        return None, state
    terms, state = rule.update(state, step)
    key = (step.estimate.directions[0].seed, step.index)  # its own bits for every step, whatever its directions
    return Move(terms, decay=1.0 - step.lr * step.weight_decay, rounding_key=key), state
