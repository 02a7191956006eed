"""Products of 16-bit matrices on a processor without 16-bit products: in float32, panel by panel.

Where a processor has no such instructions (most laptops, servers from before AVX-512), torch multiplies 16-bit matrices at a
seventh of float32's speed. Widening what a product needs is exact, and cheap beside it. A panel of the weight is widened at a
time, so that no temporary is as large as a large weight; the sums are float32's, as in torch's own products, and are rounded
once. What was measured is in docs/performance.md.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn import functional
from torch.overrides import TorchFunctionMode

PANEL = 1 << 21  # elements of a weight that are widened at once
SUMS = 1 << 20  # elements of the result that are summed at once
ROWS = (1 << 9, 1 << 11)  # of x at once: at least, since all panels are widened again for each such block; at most
X = 1 << 21  # elements of x at once, where that is between the two
LEAST_ROWS = 8  # of fewer, torch's own products are quicker
LEAST = 1 << 19  # multiplications, below which a call costs more than it saves

Dtypes = frozenset[torch.dtype]


@dataclass(frozen=True)
class _Passes:
    """Forward passes that take products wide."""

    slow: Dtypes = frozenset()
    kept: dict[str, torch.Tensor] = field(default_factory=dict)  # memory of one product, for the next
    thread: int = field(default_factory=threading.get_ident)


_current: ContextVar[_Passes | None] = ContextVar("passes that take products wide", default=None)


@contextmanager
def wide_products(weights: Iterable[torch.Tensor]) -> Iterator[None]:
    """Forward passes inside take large 16-bit products in float32 where the processor has none of that type.

    Nothing changes with gradients enabled, under autocast, in what torch compiles or traces, on other devices, and where no
    weight is of such a type. May be nested.

    Args:
        weights: those of the model.
    """
    narrow = {weight.dtype for weight in weights if weight.dtype.itemsize == 2 and weight.device.type == "cpu"}
    slow, outer = slow_dtypes() & narrow if narrow else frozenset(), _current.get()
    if outer is not None and outer.thread == threading.get_ident():
        slow -= outer.slow
    with _taken_wide(_Passes(slow)):
        yield


def wide_products_elsewhere() -> Callable[[], Any]:
    """What holds in this thread, as a context for another one that runs in its turn: torch's modes do not follow."""
    here = _current.get() or _Passes()
    return lambda: _taken_wide(_Passes(here.slow, here.kept))


def slow_dtypes() -> Dtypes:
    """The 16-bit types of which oneDNN, which makes torch's products on a CPU, has no products here."""
    if not torch.backends.mkldnn.is_available():  # another library makes them
        return frozenset()
    supported = {
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported,
        torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported,
    }
    return frozenset(dtype for dtype, has in supported.items() if not has())


@contextmanager
def _taken_wide(passes: _Passes) -> Iterator[None]:
    if not passes.slow:
        yield
        return
    token = _current.set(passes)
    try:
        with _Wide(passes):
            yield
    finally:
        _current.reset(token)


class _Wide(TorchFunctionMode):
    """Is shown every torch function that Python calls, and answers large products itself."""

    def __init__(self, passes: _Passes) -> None:
        super().__init__()
        self._slow, self._kept = passes.slow, passes.kept

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        product = _PRODUCTS.get(func)
        if product is None or torch.is_grad_enabled() or _transformed():
            return func(*args, **kwargs)
        y = product(self, *args, **kwargs)
        return func(*args, **kwargs) if y is None else y

    def plain(self, *tensors: Any) -> bool:
        """Whether these are what torch multiplies slowly: dense matrices, or more of them, of one slow type."""
        return all(
            type(one) in (torch.Tensor, nn.Parameter)
            and one.dtype in self._slow
            and one.dtype is tensors[0].dtype
            and one.device.type == "cpu"
            and one.layout is torch.strided
            and not one.is_nested
            for one in tensors
        ) and not torch.is_autocast_enabled("cpu")

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
                kept = self._kept[name] = torch.empty(math.prod(shape), dtype=torch.float32, device="cpu")
        return kept[: math.prod(shape)].view(shape)


def _transformed() -> bool:
    """Whether torch is not asked for numbers: it compiles, traces, maps over a dimension, or differentiates forwards."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        or torch._C._functorch.maybe_current_level() is not None  # pyright: ignore[reportAttributeAccessIssue]
        or forward_ad._current_level >= 0
    )


def _large(m: int, right: torch.Tensor) -> bool:
    """Whether the product of m rows with right, [..., k, n], is worth it."""
    return m >= LEAST_ROWS and m * right.shape[-2] * right.shape[-1] >= LEAST


# Each answers None where torch's own is to be called: for what is asked in another way, small or wrong. Names are torch's.
def _linear(wide: _Wide, input: Any = None, weight: Any = None, bias: Any = None, **rest: Any) -> torch.Tensor | None:
    if rest or not wide.plain(input, weight, *(() if bias is None else (bias,))) or weight.ndim != 2:
        return None
    return _rows_times(wide, input, weight.t(), bias) if bias is None or bias.ndim == 1 else None


def _matmul(wide: _Wide, input: Any = None, other: Any = None, **rest: Any) -> torch.Tensor | None:
    if rest or not wide.plain(input, other) or other.ndim != 2:
        return None
    return _rows_times(wide, input, other, None)


def _rows_times(wide: _Wide, x: torch.Tensor, right: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor | None:
    inner, n = right.shape
    if x.ndim < 2 or x.shape[-1] != inner or (bias is not None and len(bias) not in (1, n)):
        return None
    if not _large(math.prod(x.shape[:-1]), right):
        return None
    y = x.new_empty(*x.shape[:-1], n)  # no view: whoever has it may write it
    wide.onto(x.reshape(-1, inner), right, bias, y.view(-1, n))
    return y


def _mm(
    wide: _Wide, input: Any = None, mat2: Any = None, *more: Any, out: Any = None, **rest: Any
) -> torch.Tensor | None:
    return None if more or rest or not wide.plain(input, mat2) else _into(wide, None, input, mat2, out)


def _addmm(
    wide: _Wide, input: Any = None, mat1: Any = None, mat2: Any = None, *more: Any, out: Any = None, **rest: Any
) -> torch.Tensor | None:
    factors = rest.pop("beta", 1), rest.pop("alpha", 1)
    if more or rest or factors != (1, 1) or not wide.plain(input, mat1, mat2):
        return None
    return _into(wide, input, mat1, mat2, out)


def _into(wide: _Wide, start: Any, x: torch.Tensor, right: torch.Tensor, out: Any) -> torch.Tensor | None:
    if x.ndim != 2 or right.ndim != 2 or x.shape[1] != right.shape[0] or not _large(len(x), right):
        return None
    shape = (len(x), right.shape[1])
    if start is not None and not _broadcasts(start, shape):
        return None
    out = x.new_empty(*shape) if out is None else out
    others = (x, right) if start is None or out is start else (x, right, start)
    if not wide.plain(out, x) or out.shape != shape or any(_shares(out, one) for one in others):
        return None
    return wide.onto(x, right, start, out)


def _bmm(wide: _Wide, input: Any = None, mat2: Any = None, *more: Any, **rest: Any) -> torch.Tensor | None:
    return None if more or rest or not wide.plain(input, mat2) else _members(wide, None, input, mat2)


def _baddbmm(
    wide: _Wide, input: Any = None, batch1: Any = None, batch2: Any = None, *more: Any, **rest: Any
) -> torch.Tensor | None:
    return None if more or rest or not wide.plain(input, batch1, batch2) else _members(wide, input, batch1, batch2)


def _members(wide: _Wide, start: torch.Tensor | None, x: torch.Tensor, right: torch.Tensor) -> torch.Tensor | None:
    if x.ndim != 3 or right.ndim != 3 or len(x) != len(right) or x.shape[2] != right.shape[1]:
        return None
    shape = (*x.shape[:2], right.shape[2])
    if not _large(x.shape[1], right) or (start is not None and not _broadcasts(start, shape)):
        return None
    y = x.new_empty(*shape)
    starts = [None] * len(x) if start is None else start.expand_as(y)
    for member in zip(x, right, starts, y, strict=True):
        wide.onto(*member)
    return y


def _broadcasts(start: torch.Tensor, shape: tuple[int, ...]) -> bool:
    pairs = zip(reversed(start.shape), reversed(shape), strict=False)
    return start.ndim <= len(shape) and all(a in (1, b) for a, b in pairs)


def _shares(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors lie in one block of memory."""
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


_PRODUCTS: Mapping[Any, Callable[..., torch.Tensor | None]] = {
    functional.linear: _linear,
    **dict.fromkeys((torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__), _matmul),
    **dict.fromkeys((torch.mm, torch.Tensor.mm), _mm),
    **dict.fromkeys((torch.addmm, torch.Tensor.addmm), _addmm),
    **dict.fromkeys((torch.bmm, torch.Tensor.bmm), _bmm),
    **dict.fromkeys((torch.baddbmm, torch.Tensor.baddbmm), _baddbmm),
}
