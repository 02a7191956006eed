"""A linear layer of which only a few outputs are wanted: the rows of its weight behind the others are not read.

Inside `only_rows(layer, ids)` a call of the layer is handed `ids` as a second argument, behind whatever hooks do to the first,
and returns those outputs alone. A view that shows the layer another weight may therefore make those rows alone, too.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional


def can_give_rows(layer: object) -> bool:
    """Is `layer` torch's own linear layer, with torch's own forward?"""
    return isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward and "forward" not in vars(layer)


@contextmanager
def only_rows(layer: nn.Linear, ids: torch.Tensor) -> Iterator[None]:
    """Inside, `layer(x)` is [..., len(ids)]: outputs `ids` [n] int64.

    >>> layer, x = nn.Linear(3, 5), torch.ones(2, 3)
    >>> with only_rows(layer, torch.tensor([4, 0])):
    ...     few = layer(x)
    >>> torch.allclose(few, layer(x)[:, [4, 0]])
    True
    """
    before = vars(layer).get("forward")
    handle = layer.register_forward_pre_hook(lambda _, args: (*args, ids), prepend=True)
    layer.forward = functools.partial(_forward, layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        handle.remove()
        if before is None:
            del layer.forward
        else:
            layer.forward = before


def rows_wanted(module: nn.Module, args: tuple[Any, ...]) -> torch.Tensor | None:
    """The rows that this call of `module` is asked for; None: all."""
    own = vars(module).get("forward")
    return args[1] if len(args) == 2 and getattr(own, "func", None) is _forward else None


def _forward(layer: nn.Linear, x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    bias = layer.bias
    return functional.linear(x, layer.weight[ids], None if bias is None else bias[ids])
