"""Whose rows are whose: the tensors of a module's call, apart for the members of a population and together again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from zoft.errors import UnsupportedModuleError


@dataclass(frozen=True, slots=True)
class Members:
    """`count` members of `rows` rows each, one after the other in the first dimension of what a module is given.

    A module may be given some multiple of these rows (tokens flattened into rows), or one row for all members.
    """

    count: int
    rows: int

    def has_all(self, tensor: torch.Tensor, name: str) -> bool:
        """Does `tensor` hold rows of every member? Otherwise it is the same for all.

        Args:
            name: of a parameter of the module, for the message.

        Raises:
            UnsupportedModuleError: neither can be.
        """
        first = tensor.shape[0] if tensor.ndim else 1
        if tensor.ndim and first and first % (self.count * self.rows) == 0:
            return True
        if first == 1:
            return False
        raise UnsupportedModuleError(
            f"the module that owns {name!r} is called with a tensor {tuple(tensor.shape)}, whose first dimension is neither 1 "
            f"nor a multiple of the {self.count * self.rows} rows of this population ({self.count} points of {self.rows}), so "
            "zo_panels=lockstep cannot tell which rows are whose; freeze it or use zo_panels=jit"
        )

    def stacked(self, tensor: torch.Tensor, name: str) -> torch.Tensor:
        """[count, k rows, …], or [count, 1, …] of what is the same for all."""
        if self.has_all(tensor, name):
            return tensor.unflatten(0, (self.count, -1))
        return tensor.expand(self.count, *tensor.shape).reshape(self.count, 1, *tensor.shape[1:])

    def flat(self, stacked: torch.Tensor) -> torch.Tensor:
        """The reverse of `stacked`: [count k rows, …]; what was the same for all becomes the same rows of each member."""
        if stacked.shape[1] == 1:
            stacked = stacked.expand(self.count, self.rows, *stacked.shape[2:])
        return stacked.flatten(0, 1)

    def apart(self, arguments: Any, name: str) -> list[Any]:
        """Nested arguments for each member.

        Raises:
            UnsupportedModuleError: no tensor is among them, or one whose rows are nobody's.
        """
        if not any(isinstance(leaf, torch.Tensor) for leaf in tree_leaves(arguments)):
            raise UnsupportedModuleError(
                f"the module that owns {name!r} is called without a tensor, so zo_panels=lockstep cannot give each member its "
                "own result; freeze it or use zo_panels=jit"
            )

        def part(value: Any, member: int) -> Any:
            if not isinstance(value, torch.Tensor) or not self.has_all(value, name):
                return value
            return value.unflatten(0, (self.count, -1))[member]

        return [tree_map(lambda value, m=member: part(value, m), arguments) for member in range(self.count)]

    def together(self, outputs: Sequence[Any]) -> Any:
        """The members' outputs, one below the other."""
        flattened = [tree_flatten(output) for output in outputs]
        leaves = [
            self.flat(torch.stack(values)) if isinstance(values[0], torch.Tensor) else values[0]
            for values in zip(*(leaves for leaves, _ in flattened), strict=True)
        ]
        return tree_unflatten(leaves, flattened[0][1])


def first_dimensions(module: nn.Module, args: Any, kwargs: Any) -> tuple[int, ...]:
    """Of the tensors that a module is called with; of a linear layer the first alone, behind which ids of rows may stand."""
    leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    kept = leaves[:1] if isinstance(module, nn.Linear) else leaves
    return tuple(leaf.shape[0] if leaf.ndim else 1 for leaf in kept)


def grows_with_members(one: Sequence[tuple[int, ...]], all_: Sequence[tuple[int, ...]], count: int) -> bool:
    """Whether the calls of a module for one member and for `count` differ by the number of rows alone.

    >>> grows_with_members([(4,), (1, 8)], [(12,), (1, 24)], 3), grows_with_members([(12,)], [(12,)], 3)
    (True, False)
    """
    return len(one) == len(all_) and all(
        len(mine) == len(theirs) and all(b == a * count or a == b == 1 for a, b in zip(mine, theirs, strict=True))
        for mine, theirs in zip(one, all_, strict=True)
    )


@contextmanager
def showing(module: nn.Module, copies: dict[str, torch.Tensor]) -> Iterator[None]:
    """Inside, `module` shows these tensors for its parameters."""
    before = {attribute: module._parameters[attribute] for attribute in copies}
    try:
        module._parameters.update(copies)  # type: ignore[arg-type]
        yield
    finally:
        module._parameters.update(before)
