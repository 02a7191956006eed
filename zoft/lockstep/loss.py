"""What a loss must offer to be taken at several points at once: itself, of a batch with its rows repeated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch

from zoft.errors import UsageError
from zoft.objectives.repeated import repeated, rows_of
from zoft.tally import Taken, taken


@runtime_checkable
class Repeats(Protocol):
    """A closure that can also be called for several members of a population at once."""

    rows: int  # that the model is given of the batch

    def __call__(self) -> torch.Tensor | float: ...

    def repeated(self, members: int) -> Sequence[torch.Tensor | float] | torch.Tensor:
        """For each member what a call returns, from one forward of `members` times the batch's rows, member by member."""
        ...


class BatchLoss:
    """The losses of one batch's examples, by a function that can be given the batch several times over.

    >>> weight = torch.tensor([2.0])
    >>> loss = BatchLoss(lambda batch: (batch["x"] * weight - batch["y"]).square(), {"x": torch.ones(3), "y": torch.zeros(3)})
    >>> loss().tolist(), loss.repeated(2).tolist()
    ([4.0, 4.0, 4.0], [[4.0, 4.0, 4.0], [4.0, 4.0, 4.0]])
    """

    def __init__(self, losses: Callable[[dict[str, Any]], torch.Tensor], batch: Mapping[str, Any]) -> None:
        """
        Args:
            losses: from a batch of B examples to their losses [B], each of which must depend on its own rows alone.
            batch: tensors by name, with the examples, or their rows, in the first dimension.
        """
        self._losses, self._batch = losses, batch
        self.rows = rows_of(batch)
        self.more = 0  # losses taken beyond the calls of `losses`

    def __call__(self) -> torch.Tensor:
        """[B]; or whatever the function returns."""
        return self._losses(dict(self._batch))

    def repeated(self, members: int) -> torch.Tensor:
        """[members, B].

        Raises:
            UsageError: the function returned something else than one loss for each example.
        """
        losses = self._losses(repeated(self._batch, members))
        self.more += members - 1
        if not isinstance(losses, torch.Tensor) or losses.ndim != 1 or len(losses) % members or not len(losses):
            came = f"a tensor {tuple(losses.shape)}" if isinstance(losses, torch.Tensor) else type(losses).__name__
            raise UsageError(
                f"zo_panels=lockstep takes the losses of {members} points from one batch, so they must come one for each "
                f"example [{members} x B], but {came} came; return losses that are not reduced, or use zo_panels=jit"
            )
        return losses.view(members, -1)


class TakenLoss:
    """A closure's losses as the optimizer counts them."""

    def __init__(self, closure: Callable[[], torch.Tensor | float]) -> None:
        self._closure = closure

    def __call__(self) -> Taken:
        return taken(self._closure())

    @property
    def rows(self) -> int:
        """Of one member.

        Raises:
            UsageError: the closure can be called for one point at a time only.
        """
        return self._repeats.rows

    def repeated(self, members: int) -> list[Taken]:
        """One for each member.

        Raises:
            UsageError: as `rows`; or another number came.
        """
        values = [taken(value) for value in self._repeats.repeated(members)]
        if len(values) != members:
            raise UsageError(f"the loss was asked for {members} members at once, and {len(values)} values came")
        return values

    @property
    def _repeats(self) -> Repeats:
        if not isinstance(self._closure, Repeats):
            raise UsageError(
                "zo_panels=lockstep takes the losses of several points from one batch, which a plain closure cannot give: pass "
                "zoft.BatchLoss(losses, batch), where losses(batch) returns one loss for each example [B], or use zo_panels=jit"
            )
        return self._closure
