"""Rewards by name: ready ones, metrics, and a function of the user's own by its import path."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from zoft.choices import nearest
from zoft.errors import UsageError
from zoft.metrics import METRICS
from zoft.rewards.arithmetic import arithmetic
from zoft.rewards.base import Reward

REWARDS: Mapping[str, Reward] = {"arithmetic": arithmetic}
OF_LABELS = ("f1", "macro_f1", "matthews", "question_em")  # metrics that count chosen candidates, and so one a batch


def find_reward(name: str) -> Reward | None:
    """The function; None where `name` is a metric, which needs more than texts.

    Raises:
        UsageError: there is no such reward, module or function.
    """
    if name in METRICS:
        return None
    if name in REWARDS:
        return REWARDS[name]
    module, colon, function = name.partition(":")
    if not (colon and module and function):
        known = (*REWARDS, *METRICS)
        raise UsageError(
            f"reward={name}: there is no such reward{nearest(name, known)}; there are {', '.join(known)}, and your own as "
            "module:function"
        )
    here = str(Path.cwd())
    if here not in sys.path:  # a file beside the command, also where zoft was started by its script
        sys.path.append(here)
    try:
        found: Any = getattr(importlib.import_module(module), function)
    except Exception as error:  # the user's module runs when it is imported, and may raise anything
        raise UsageError(
            f"reward={name} cannot be imported (modules are also looked for in {here}): {type(error).__name__}: {error}"
        ) from error
    if not callable(found):
        raise UsageError(f"reward={name} is {type(found).__name__}, not a function(prompts, outputs, references)")
    return cast(Reward, found)
