"""A linear layer of which only a few outputs are wanted, or one number of all of them: not all are made, or not at once.

Inside `only_rows(layer, wanted)` a call of the layer is handed `wanted` as a second argument, behind whatever hooks do to the
first, and returns that alone: some outputs, or what is made `OfAllRows`. A view that shows the layer another weight may
therefore make those rows alone, or some at a time, too.
"""

from __future__ import annotations

import functools
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional

Rows = torch.Tensor | slice  # of a weight: by number [n] int64, or those between two


class OfAllRows(ABC):
    """What is made of all outputs of a layer, without having them all at once."""

    @abstractmethod
    def over(self, x: torch.Tensor, rows: int, outputs_of: Callable[[slice], torch.Tensor]) -> torch.Tensor:
        """It, from the outputs [..., n] of some of the `rows` of the weight at a time."""


class GivesRows(functools.partial[torch.Tensor]):
    """A forward of one layer that is called with x, or with x and what is wanted: rows, or something `OfAllRows`."""


def can_give_rows(layer: object) -> bool:
    """Is `layer` torch's own linear layer, with torch's own forward or one that gives rows?"""
    if not isinstance(layer, nn.Linear) or type(layer).forward is not nn.Linear.forward:
        return False
    return "forward" not in vars(layer) or isinstance(vars(layer)["forward"], GivesRows)


@contextmanager
def only_rows(layer: nn.Linear, ids: torch.Tensor | OfAllRows) -> Iterator[None]:
    """Inside, `layer(x)` is [..., len(ids)]: outputs `ids` [n] int64; or what is made of all.

    >>> layer, x = nn.Linear(3, 5), torch.ones(2, 3)
    >>> with only_rows(layer, torch.tensor([4, 0])):
    ...     few = layer(x)
    >>> torch.allclose(few, layer(x)[:, [4, 0]])
    True
    """
    asked, outer = _asked(), _asked().get(layer)
    asked[layer] = ids
    handle = layer.register_forward_pre_hook(
        lambda _, args: (*args, ids) if _asked().get(layer) is ids else None, prepend=True
    )
    before = vars(layer).get("forward")
    if not isinstance(before, GivesRows):
        _hidden[layer] = before
        layer.forward = GivesRows(forward_rows, layer)  # type: ignore[method-assign]
    _users[layer] += 1
    try:
        yield
    finally:
        handle.remove()
        asked.pop(layer)
        if outer is not None:
            asked[layer] = outer
        _users[layer] -= 1
        if not _users[layer]:
            del _users[layer]  # or the layer would outlive its model
            if layer in _hidden:
                before = _hidden.pop(layer)
                del layer.forward
                if before is not None:
                    layer.forward = before


# Losses that are taken in turns, each in a thread of its own, may be inside for one layer at a time, with other rows.
_own = threading.local()
_users: Counter[nn.Module] = Counter()
_hidden: dict[nn.Module, Any] = {}  # the forward that a layer had, while it gives rows


def _asked() -> dict[nn.Module, torch.Tensor | OfAllRows]:
    return vars(_own).setdefault("rows", {})


def rows_wanted(module: nn.Module, args: tuple[Any, ...]) -> torch.Tensor | None:
    """The rows of its weight that this call of `module` is about to read; None: all, or its forward sees to it."""
    own = vars(module).get("forward")
    few = len(args) == 2 and isinstance(args[1], torch.Tensor)
    return args[1] if few and isinstance(own, GivesRows) and own.func is forward_rows else None


def forward_rows(layer: nn.Linear, x: torch.Tensor, ids: Rows | OfAllRows) -> torch.Tensor:
    """Outputs `ids` of `layer`, [..., n], or what is made of all."""
    if isinstance(ids, OfAllRows):
        return ids.over(x, layer.weight.shape[0], lambda rows: forward_rows(layer, x, rows))
    bias = layer.bias
    return functional.linear(x, layer.weight[ids], None if bias is None else bias[ids])
