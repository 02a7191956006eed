"""Backends by name. A backend that was asked for by name never falls back to another."""

from __future__ import annotations

import importlib
import importlib.util
import os
from functools import lru_cache

import torch

from zoft.backends.base import Backend
from zoft.backends.selfcheck import prove
from zoft.errors import UsageError

_MEMBERS = {
    "reference": ("zoft.backends.reference", "ReferenceBackend", ()),
    "cpu": ("zoft.backends.cpu", "CpuBackend", ("numba",)),
    "triton": ("zoft.backends.triton", "TritonBackend", ("triton", "zoft_kernels")),
}


def available() -> list[str]:
    """The names of the backends that can work here: packages are installed, and `triton` has a GPU."""
    return [name for name in _MEMBERS if _obstacle(name) is None]


def backend(name: str, device: torch.device | str = "cpu") -> Backend:
    """The backend `name`; `auto` takes the fastest one for `device`.

    Raises:
        UsageError: no such backend, or what it needs is not there; the message names those that are. Kernels that do not
            return the reference's bits on this GPU.
    """
    if name == "auto":
        name = _fastest(torch.device(device))
    obstacle = _obstacle(name)
    if obstacle is not None:
        raise UsageError(f"backend {name!r} {obstacle}; available: auto, {', '.join(available())}")
    return _made(name, torch.device(device))


@lru_cache(maxsize=16)
def _made(name: str, device: torch.device) -> Backend:
    module, member, _ = _MEMBERS[name]
    made: Backend = getattr(importlib.import_module(module), member)()
    if name == "triton" and device.type == "cuda":
        prove(made, device)
    return made


def _obstacle(name: str) -> str | None:
    """Why a backend cannot be had here."""
    if name not in _MEMBERS:
        return "does not exist"
    if not all(map(importlib.util.find_spec, _MEMBERS[name][2])):
        return "is not installed"
    if name == "triton" and not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
        return "needs a CUDA device (or TRITON_INTERPRET=1, which is for tests: slow)"
    return None


def _fastest(device: torch.device) -> str:
    """The fastest available backend that works on `device`."""
    wanted = {"cpu": "cpu", "cuda": "triton"}.get(device.type, "reference")
    return wanted if wanted in available() else "reference"
