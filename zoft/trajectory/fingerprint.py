"""Is this the model that the run started from?"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from zoft.checksum import checksum
from zoft.naming import canonical_name
from zoft.shards import is_sharded
from zoft.space import ParameterSpace

CHUNK = 1 << 24  # elements hashed at a time: a copy of at most this many exists beside the weights


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """Of a sharded model, taken by all its processes together, for the one that keeps the log."""

    trained: str
    frozen: str
    state: str

    @classmethod
    def of(cls, model: nn.Module, space: ParameterSpace, rule_state: dict[str, Any]) -> Fingerprints:
        """All processes must call this."""
        return cls(trained_fingerprint(space), frozen_fingerprint(model, space), state_fingerprint(space, rule_state))


def trained_fingerprint(space: ParameterSpace) -> str:
    """16 hex digits of blake2b over the trained parameters: names, shapes, dtypes, bytes; residual bits if any is set.

    A model that was just loaded has no residual bits but zeros, so its fingerprint does not depend on
    `weight_rounding`.
    """
    digest = hashlib.blake2b(digest_size=8)
    for slot in space.slots:
        _add(digest, slot.name, slot.whole(slot.weight))
        residual = None if slot.residual is None else slot.whole(slot.residual)
        if residual is not None and bool(residual.any()):
            _add(digest, "residual", residual)
    return digest.hexdigest()


def frozen_fingerprint(model: nn.Module, space: ParameterSpace) -> str:
    """The same over every parameter of `model` outside `space`: with an adapter, over the base model.

    Buffers are left out: they are constants of the architecture, or (running statistics) not part of the trajectory. So
    is the original of a module that PEFT trains whole: it is never read, and a new head's is random in every load.
    """
    trained = {id(module._parameters[attribute]) for slot in space.slots for module, attribute in slot.owners}
    digest = hashlib.blake2b(digest_size=8)
    for name, weight in model.named_parameters():
        if id(weight) not in trained and "original_module" not in name.split("."):
            _add(digest, canonical_name(name), weight.full_tensor() if is_sharded(weight) else weight)  # type: ignore[attr-defined]
    return digest.hexdigest()


def state_fingerprint(space: ParameterSpace, rule_state: dict[str, Any]) -> str:
    """16 hex digits over all that a run goes on from: weights, residual bits, momenta and the rule's state.

    Made at every checkpoint and end, so from checksums that are taken where the tensors lie (one reading at the memory's
    speed, and 8 bytes to the CPU for each), not from a hash of copies. Unlike a norm with samples, they see every bit.
    """
    found: list[Any] = [rule_state]
    for slot in space.slots:
        sums = (None if tensor is None else checksum([slot.whole(tensor)]) for tensor in space.stored(slot))
        found.append([slot.name, *sums])
    return hashlib.blake2b(json.dumps(found, sort_keys=True).encode(), digest_size=8).hexdigest()


def _add(digest: Any, name: str, tensor: torch.Tensor) -> None:
    digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
    flat = tensor.detach().reshape(-1)
    for start in range(0, flat.numel(), CHUNK):
        chunk = flat[start : start + CHUNK].contiguous().cpu()
        digest.update(chunk.view(torch.uint8).numpy())
