"""zoft: zeroth-order fine-tuning of language models, with forward passes only.

Importing this module loads neither torch nor Transformers; each public name is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public name -> the module that defines it.
EXPORTS = {
    "BatchLoss": "zoft.lockstep",
    "CapturedStep": "zoft.captured",
    "StabilityCallback": "zoft.trainer",
    "UsageError": "zoft.errors",
    "ZOCallback": "zoft.trainer",
    "ZOConfig": "zoft.trainer",
    "ZOOptimizer": "zoft.optimizer",
    "ZOTrainer": "zoft.trainer",
    "from_trajectory": "zoft.trajectory.publish",
    "keep_freed_memory": "zoft.freed_memory",
    "load_config": "zoft.config",
    "stream": "zoft.streaming.stream",
    "wide_products": "zoft.products",
}

__all__ = ["EXPORTS", "__version__", *sorted(EXPORTS)]  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from zoft.config import load_config as load_config
    from zoft.errors import UsageError as UsageError


def __getattr__(name: str) -> Any:
    if name not in EXPORTS:
        raise AttributeError(f"module 'zoft' has no attribute {name!r}")
    value = getattr(import_module(EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *EXPORTS])
