"""Products of 16-bit matrices on a processor without 16-bit products: in float32, panel by panel.

Where a processor has no such instructions (most laptops, servers from before AVX-512), torch multiplies 16-bit matrices at a
seventh of float32's speed. Widening what a product needs is exact, and cheap beside it. A panel of the weight is widened at a
time, so that no temporary is as large as a large weight; the sums are float32's, as in torch's own products, and are rounded
once. What was measured is in docs/performance.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

PANEL = 1 << 21  # elements of a weight that are widened at once
SUMS = 1 << 20  # elements of the result that are summed at once
ROWS = (1 << 9, 1 << 11)  # of x at once: at least, since all panels are widened again for each such block; at most
X = 1 << 21  # elements of x at once, where that is between the two
LEAST_ROWS = 8  # of fewer, torch's own products are quicker
LEAST = 1 << 19  # multiplications, below which a call costs more than it saves

Dtypes = frozenset[torch.dtype]
_inside: ContextVar[Dtypes] = ContextVar("slow dtypes of the passes that run here", default=frozenset())


@contextmanager
def wide_products(weights: Iterable[torch.Tensor]) -> Iterator[None]:
    """Forward passes inside take large 16-bit products in float32 where the processor has none of that type.

    Nothing changes with gradients enabled, under autocast, on other devices or where no weight is of such a type.

    Args:
        weights: those of the model.
    """
    slow = slow_dtypes() if not _inside.get() else frozenset()
    on_cpu = {weight.dtype for weight in weights if weight.device.type == "cpu"} if slow else set()
    with _taken_wide(slow & on_cpu):
        yield


def wide_products_elsewhere() -> Callable[[], Any]:
    """What holds in this thread, as a context for another one: torch's modes do not follow."""
    slow = _inside.get()
    return lambda: _taken_wide(slow)


def slow_dtypes() -> Dtypes:
    """The 16-bit types of which oneDNN, which makes torch's products on a CPU, has no products here."""
    supported = {
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported,
        torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported,
    }
    return frozenset(dtype for dtype, has in supported.items() if not has())


@contextmanager
def _taken_wide(slow: Dtypes) -> Iterator[None]:
    if not slow:
        yield
        return
    token = _inside.set(slow)
    try:
        with _Wide(slow):
            yield
    finally:
        _inside.reset(token)


class _Wide(TorchFunctionMode):
    """Is shown every torch function that Python calls, and answers large products itself."""

    def __init__(self, slow: Dtypes) -> None:
        super().__init__()
        self._slow = slow
        self._kept: dict[str, torch.Tensor] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        product = _PRODUCTS.get(func)
        if product is None or torch.is_grad_enabled():
            return func(*args, **kwargs)
        y = product(self, *args, **kwargs)
        return func(*args, **kwargs) if y is None else y

    def takes(self, x: torch.Tensor, right: torch.Tensor, start: torch.Tensor | None = None) -> bool:
        """Whether start + x @ right, [..., m, k] @ [..., k, n], is among the products that are slow."""
        return (
            all(
                type(one) in (torch.Tensor, nn.Parameter) and one.dtype is x.dtype and one.device.type == "cpu"
                for one in (x, right, *(() if start is None else (start,)))
            )
            and x.dtype in self._slow
            and x.shape[-1] == right.shape[-2]
            and x.shape[-2] >= LEAST_ROWS
            and x.shape[-2] * right.shape[-2] * right.shape[-1] >= LEAST
            and not torch.is_autocast_enabled("cpu")
            and torch._C._functorch.maybe_current_level() is None  # pyright: ignore[reportAttributeAccessIssue]  # vmap: x is many
        )

    def onto(self, x: torch.Tensor, right: torch.Tensor, start: torch.Tensor | None, y: torch.Tensor) -> torch.Tensor:
        """y <- start + x @ right, rounded once.

        Args:
            x: [m, k].
            right: [k, n].
            start: whatever broadcasts to [m, n]; None: 0.
            y: [m, n]; may be `start`.
        """
        (m, inner), n = x.shape, right.shape[1]
        height = min(max(X // inner, ROWS[0]), ROWS[1], m)
        columns = max(1, min(PANEL // inner, SUMS // height))
        start = None if start is None else start.expand(m, n)
        for top in range(0, m, height):
            rows = slice(top, min(m, top + height))
            wide = self._room("x", rows.stop - top, inner).copy_(x[rows])
            for left in range(0, n, columns):
                here = slice(left, min(n, left + columns))
                panel = self._panel(right[:, here])
                sums = self._room("sums", len(wide), here.stop - left)
                if start is None:
                    torch.mm(wide, panel, out=sums)
                else:
                    sums.copy_(start[rows, here]).addmm_(wide, panel)
                y[rows, here] = sums
        return y

    def _panel(self, right: torch.Tensor) -> torch.Tensor:
        """A widened copy that lies in memory as `right` does: of a layer's weight [n, k], or the transpose of one [k, n]."""
        if right.stride(0) == 1:
            return self._room("panel", *right.t().shape).copy_(right.t()).t()
        return self._room("panel", *right.shape).copy_(right)

    def _room(self, name: str, *shape: int) -> torch.Tensor:
        """A float32 matrix, whose memory is kept for the next product."""
        kept = self._kept.get(name)
        if kept is None or kept.numel() < math.prod(shape):
            with torch.inference_mode(False):  # the next product may be outside of it
                kept = self._kept[name] = torch.empty(math.prod(shape))
        return kept[: math.prod(shape)].view(shape)


# Each answers None where torch's own is to be called. Names of arguments are torch's.
def _linear(wide: _Wide, input: Any, weight: Any, bias: Any = None) -> torch.Tensor | None:
    return _rows_times(wide, input, weight.t(), bias) if weight.ndim == 2 else None


def _matmul(wide: _Wide, input: Any, other: Any, **rest: Any) -> torch.Tensor | None:
    return _rows_times(wide, input, other, None) if input.ndim >= 2 and other.ndim == 2 and not rest else None


def _rows_times(wide: _Wide, x: torch.Tensor, right: torch.Tensor, start: torch.Tensor | None) -> torch.Tensor | None:
    flat = x.reshape(-1, x.shape[-1]) if x.numel() else x
    if flat.ndim != 2 or not wide.takes(flat, right, start):
        return None
    return wide.onto(flat, right, start, flat.new_empty(len(flat), right.shape[1])).view(*x.shape[:-1], -1)


def _mm(wide: _Wide, input: Any, mat2: Any, *, out: Any = None, **rest: Any) -> torch.Tensor | None:
    return None if rest or input.ndim != 2 or mat2.ndim != 2 else _sum_into(wide, None, input, mat2, out)


def _addmm(
    wide: _Wide, input: Any, mat1: Any, mat2: Any, *, out: Any = None, beta: Any = 1, alpha: Any = 1, **rest: Any
) -> torch.Tensor | None:
    plain = not rest and beta == alpha == 1 and mat1.ndim == mat2.ndim == 2
    return _sum_into(wide, input, mat1, mat2, out) if plain else None


def _sum_into(wide: _Wide, start: Any, x: torch.Tensor, right: torch.Tensor, out: Any) -> torch.Tensor | None:
    if not wide.takes(x, right, start):
        return None
    if out is None:
        out = x.new_empty(len(x), right.shape[1])
    elif out.dtype is not x.dtype or out.shape != (len(x), right.shape[1]):
        return None
    return wide.onto(x, right, start, out)


def _bmm(wide: _Wide, input: Any, mat2: Any, **rest: Any) -> torch.Tensor | None:
    return None if rest else _members(wide, None, input, mat2)


def _baddbmm(wide: _Wide, input: Any, batch1: Any, batch2: Any, **rest: Any) -> torch.Tensor | None:
    return None if rest else _members(wide, input, batch1, batch2)


def _members(wide: _Wide, start: torch.Tensor | None, x: torch.Tensor, right: torch.Tensor) -> torch.Tensor | None:
    if x.ndim != 3 or right.ndim != 3 or len(x) != len(right) or not wide.takes(x, right, start):
        return None
    y = x.new_empty(*x.shape[:2], right.shape[2])
    starts = [None] * len(x) if start is None else start.expand_as(y)
    for member in zip(x, right, starts, y, strict=True):
        wide.onto(*member)
    return y


_PRODUCTS: Mapping[Any, Callable[..., torch.Tensor | None]] = {
    functional.linear: _linear,
    torch.matmul: _matmul,
    torch.Tensor.matmul: _matmul,
    torch.Tensor.__matmul__: _matmul,
    torch.mm: _mm,
    torch.addmm: _addmm,
    torch.bmm: _bmm,
    torch.baddbmm: _baddbmm,
}
