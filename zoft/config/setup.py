"""From the settings of a run to what its costs depend on: one reading, for `zoft recipes --fits` and `zoft plan`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zoft.config.book.published import LONG
from zoft.costs.memory import Setup, stored_bytes, trained
from zoft.costs.sizes import BYTES, Sizes
from zoft.trainer.settings import ZOSettings

LONG_TEXT, TEXT = 512, 128  # tokens of an example that are counted on, by task
BATCH = 8  # TrainingArguments' own default
RESIDUALS = {"residual16": 2, "residual8": 1}  # bytes beside a bfloat16 weight
BUFFER = 4  # bytes beside a weight, with zo_momentum_buffer=full
BUFFERS = {"full_adam": 8, "hizoo": 4}  # of rules that cannot do without
FREE_SHARE = 0.25  # as `zoft.storage`: what residual bits may take of the memory that the weights leave


def setup_of(settings: Mapping[str, Any], tokens: int | None = None) -> Setup:
    """The setup of a run with these settings, by their flat names; those left out have their defaults.

    Args:
        tokens: of an example; None: 512 for the tasks that read a passage, 128 for the others, at most `max_length`.
    """
    get = settings.get
    dtype = str(get("dtype") or "float32")
    length = tokens or (LONG_TEXT if get("task") in LONG else TEXT)
    if tokens is None and get("max_length"):
        length = min(length, int(get("max_length", length)))
    tuning = str(get("tuning") or "full")
    virtual = get("virtual_tokens") or (10 if tuning == "prompt" else 5)
    return Setup(
        dtype=dtype if dtype in BYTES else "float32",
        tuning=tuning,
        quantization=str(get("quantization") or "none"),
        in_place=_in_place(settings, dtype),
        beside=_beside(settings),
        rows=int(get("per_device_train_batch_size") or BATCH),
        tokens=length,
        all_logits=get("task") in ("text", "chat"),
        lora_r=int(get("lora_r") or 8),
        virtual_tokens=int(virtual),
        last_k=int(get("last_k") or 1),
    )


def with_residuals(sizes: Sizes, setup: Setup, settings: Mapping[str, Any], memory: float) -> float:
    """Bytes for each trained weight that `weight_rounding=auto` keeps beside it on a device of `memory` bytes."""
    asked = str(settings.get("weight_rounding") or "auto")
    if (
        asked != "auto"
        or setup.dtype != "bfloat16"
        or setup.in_place
        or setup.tuning not in ("full", "head", "last_k", "bias")
    ):
        return setup.beside
    room = FREE_SHARE * (memory - stored_bytes(sizes, setup))
    fits = (size for size in RESIDUALS.values() if size * trained(sizes, setup) <= room)
    return setup.beside + next(fits, 0)


def _in_place(settings: Mapping[str, Any], dtype: str) -> bool:
    asked = settings.get("perturbation") or ZOSettings.perturbation
    if settings.get("method") == "mezo":
        return True
    if asked != "auto":
        return asked == "in_place"
    eps = float(settings.get("zo_eps") or ZOSettings.zo_eps)
    signs = (settings.get("zo_distribution") or ZOSettings.zo_distribution) == "rademacher"
    return dtype == "float32" and signs and eps.hex().startswith("0x1.0000000000000p")


def _beside(settings: Mapping[str, Any]) -> float:
    full = settings.get("zo_momentum_buffer") == "full"
    residual = RESIDUALS.get(str(settings.get("weight_rounding")), 0) if settings.get("dtype") == "bfloat16" else 0
    return residual + BUFFERS.get(str(settings.get("zo_rule")), BUFFER if full else 0)
