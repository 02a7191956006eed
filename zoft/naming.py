"""Canonical parameter names and the random streams they address. Plain arithmetic, no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from zoft.errors import UsageError

_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


def canonical_name(name: str) -> str:
    """`name` without what DDP, torch.compile, FSDP or checkpoint wrappers put into it.

    A leading `module` is DDP's; deeper in a name it may be the model's own and stays.

    >>> canonical_name("module._orig_mod.decoder.layers.0.weight")
    'decoder.layers.0.weight'
    >>> canonical_name("base_model.module.weight")
    'base_model.module.weight'
    """
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    if len(parts) > 1 and parts[0] == "module":
        parts = parts[1:]
    return ".".join(parts)


def stream_id(name: str) -> int:
    """The 64-bit random stream of a parameter: the first 8 bytes of blake2b(name), little endian.

    >>> hex(stream_id("lm_head.weight"))
    '0x7192019439b6cb46'
    """
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def stream_ids(names: Iterable[str]) -> dict[str, int]:
    """One stream per name.

    Raises:
        UsageError: two names are equal, or hash to one stream (they would receive the same noise).
    """
    streams: dict[str, int] = {}
    owner: dict[int, str] = {}
    for name in names:
        stream = stream_id(name)
        if stream in owner:
            raise UsageError(
                f"parameters {owner[stream]!r} and {name!r} address one random stream ({stream:#x}) "
                "and would receive the same noise; rename one of them"
            )
        owner[stream] = name
        streams[name] = stream
    return streams
