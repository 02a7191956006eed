"""Linear layers whose weights are stored as whole numbers times scales, and whose scales are weights of their own.

bitsandbytes stores a quantised matrix as codes, of which nothing can be varied a little, and float32 scales, one for a block
of the matrix. Here the same codes and scales are held so that the scales are a parameter: whoever perturbs, moves, logs or
counts parameters needs to know nothing of quantisation.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional

TILE_BYTES = 32 << 20  # of a weight that are dequantised at once


class ScaledLinear(nn.Module):
    """y = x W^T + b with W = codes * scales, block by block.

    The matrix is made for the length of a forward, `TILE_BYTES` of rows at a time, in the type of `x`, and without a graph
    behind 4-bit codes. In a state dict stand bitsandbytes' own entries: a saved model is one that Transformers loads.
    """

    in_features: int
    out_features: int
    weight: nn.Parameter  # codes, as bitsandbytes stores them; never trained
    scales: nn.Parameter  # float32: the largest magnitude in each block
    bias: nn.Parameter | None

    def __init__(self, codes: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor | None, shape: torch.Size) -> None:
        """`shape` is (outputs, inputs) of the matrix."""
        super().__init__()
        self.out_features, self.in_features = shape
        self.weight = nn.Parameter(codes.detach(), requires_grad=False)
        self.scales = nn.Parameter(scales.detach().float().clone())
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self.register_state_dict_post_hook(_to_theirs)
        self.register_load_state_dict_pre_hook(_from_theirs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        height = self.tile_rows(x.element_size())
        if height >= self.out_features:
            return functional.linear(x, self.rows(0, self.out_features, x.dtype), bias)
        y = x.new_empty(*x.shape[:-1], self.out_features)
        for start in range(0, self.out_features, height):
            stop = min(start + height, self.out_features)
            part = None if bias is None else bias[start:stop]
            y[..., start:stop] = functional.linear(x, self.rows(start, stop, x.dtype), part)
        return y

    def tile_rows(self, itemsize: int) -> int:
        """Rows of the matrix that are made at once: whole blocks of codes, and at least one."""
        unit = self.unit
        return max(unit, TILE_BYTES // (self.in_features * itemsize) // unit * unit)

    @property
    def unit(self) -> int:
        """The fewest rows that end where a block ends."""
        raise NotImplementedError

    def rows(self, start: int, stop: int, dtype: torch.dtype) -> torch.Tensor:
        """Rows `start` to `stop` of W [stop - start, in_features]; both are multiples of `unit`, or the end."""
        raise NotImplementedError

    def entries(self, scales: torch.Tensor) -> dict[str, torch.Tensor]:
        """What bitsandbytes' layer has in its state dict besides weight and bias; the first holds the scales."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class FourBitLinear(ScaledLinear):
    """nf4 or fp4: two codes a byte, a scale for each `block` weights (64) in the order of memory."""

    quant_map: torch.Tensor  # the 16 values that codes stand for

    def __init__(self, codes: torch.Tensor, state: Any, bias: torch.Tensor | None) -> None:
        """`state` is bitsandbytes' QuantState."""
        super().__init__(codes, _plain_scales(state), bias, state.shape)
        self.kind, self.block, self.stored_dtype = state.quant_type, state.blocksize, state.dtype
        self.register_buffer("quant_map", state.code.clone(), persistent=False)

    @property
    def unit(self) -> int:
        return self.block // math.gcd(self.block, self.in_features)

    def rows(self, start: int, stop: int, dtype: torch.dtype) -> torch.Tensor:
        from bitsandbytes.functional import dequantize_4bit

        first, last = start * self.in_features, stop * self.in_features
        codes = self.weight.view(torch.uint8).view(-1)[first // 2 : -(-last // 2)]
        scales = self.scales[first // self.block : -(-last // self.block)]
        # As one row: on CPUs bitsandbytes 0.50 begins blocks anew with each row, also where the width is no multiple of them.
        flat = dequantize_4bit(codes, self._state(scales, torch.Size((1, last - first)), dtype))
        return flat.view(stop - start, self.in_features)

    def entries(self, scales: torch.Tensor) -> dict[str, torch.Tensor]:
        shape = torch.Size((self.out_features, self.in_features))
        packed = self._state(scales, shape, self.stored_dtype).as_dict(packed=True)
        return {f"weight.{name}": value for name, value in packed.items()}

    def _state(self, scales: torch.Tensor, shape: torch.Size, dtype: torch.dtype) -> Any:
        from bitsandbytes.functional import QuantState

        return QuantState(scales, shape, self.quant_map, self.block, self.kind, dtype)


class EightBitLinear(ScaledLinear):
    """int8: a code a byte, a scale for each row; the inputs are not rounded, as LLM.int8() rounds them."""

    def __init__(self, codes: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(codes, scales, bias, codes.shape)

    @property
    def unit(self) -> int:
        return 1

    def rows(self, start: int, stop: int, dtype: torch.dtype) -> torch.Tensor:
        from bitsandbytes.functional import int8_vectorwise_dequant

        return int8_vectorwise_dequant(self.weight[start:stop], self.scales[start:stop]).to(dtype)

    def entries(self, scales: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"SCB": scales, "weight_format": torch.zeros((), dtype=torch.uint8)}


def scaled(layer: nn.Module) -> ScaledLinear | None:
    """The same layer with its scales as a parameter, codes shared; None where `layer` is none that bitsandbytes quantised."""
    from bitsandbytes.functional import QuantState
    from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt

    if not isinstance(layer, Linear4bit | Linear8bitLt):
        return None
    held = layer.state_dict()
    codes, bias = held["weight"], held.get("bias")
    if isinstance(layer, Linear8bitLt):
        return EightBitLinear(codes, held["SCB"], bias) if "SCB" in held else None
    stored = {name.removeprefix("weight."): value for name, value in held.items() if name.startswith("weight.")}
    return FourBitLinear(codes, QuantState.from_dict(stored, device=codes.device), bias) if stored else None


def _plain_scales(state: Any) -> torch.Tensor:
    """float32 scales, also where they are quantised themselves (`bnb_4bit_use_double_quant`)."""
    if not state.nested:
        return state.absmax
    from bitsandbytes.functional import dequantize_blockwise

    return dequantize_blockwise(state.absmax, state.state2) + state.offset


def _to_theirs(module: Any, state_dict: dict[str, Any], prefix: str, local_metadata: Any) -> None:
    scales = state_dict.pop(f"{prefix}scales")
    state_dict.update({f"{prefix}{name}": value for name, value in module.entries(scales).items()})


def _from_theirs(module: Any, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    names = list(module.entries(module.scales))
    found = {name: state_dict.pop(f"{prefix}{name}") for name in names if f"{prefix}{name}" in state_dict}
    if found:
        state_dict[f"{prefix}scales"] = found[names[0]]
