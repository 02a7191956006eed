"""Training under Transformers: the Trainer, the callback and their settings. Nothing heavy is imported before it is used."""

from importlib import import_module
from typing import Any

_MEMBERS = {
    "MeZOTrainer": "zoft.trainer.mezo_trainer",
    "StabilityCallback": "zoft.trainer.stability_callback",
    "ZOCallback": "zoft.trainer.zo_callback",
    "ZOConfig": "zoft.trainer.zo_config",
    "ZOMixin": "zoft.trainer.mixin",
    "ZOSettings": "zoft.trainer.settings",
    "ZOTrainer": "zoft.trainer.zo_trainer",
}
__all__ = sorted(_MEMBERS)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _MEMBERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MEMBERS[name]), name)
