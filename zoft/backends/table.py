"""Backends by name. A backend that was asked for by name never falls back to another."""

from __future__ import annotations

import importlib
import importlib.util

import torch

from zoft.backends.base import Backend
from zoft.errors import UsageError

_MEMBERS = {
    "reference": ("zoft.backends.reference", "ReferenceBackend", ()),
    "cpu": ("zoft.backends.cpu", "CpuBackend", ("numba",)),
}


def available() -> list[str]:
    """The names of the backends whose packages are installed."""
    return [name for name, (_, _, needs) in _MEMBERS.items() if all(map(importlib.util.find_spec, needs))]


def backend(name: str, device: torch.device | str = "cpu") -> Backend:
    """The backend `name`; `auto` takes the fastest one for `device`.

    Raises:
        UsageError: no such backend, or its package is not installed; the message names those that are there.
    """
    if name == "auto":
        name = _fastest(torch.device(device))
    if name not in available():
        state = "is not installed" if name in _MEMBERS else "does not exist"
        raise UsageError(f"backend {name!r} {state}; available: auto, {', '.join(available())}")
    module, member, _ = _MEMBERS[name]
    return getattr(importlib.import_module(module), member)()


def _fastest(device: torch.device) -> str:
    """The fastest available backend that works on `device`."""
    wanted = {"cpu": "cpu"}.get(device.type, "reference")
    return wanted if wanted in available() else "reference"
