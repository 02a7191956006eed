"""`memory_budget` of a run: its model, streamed before anything is computed with it."""

from __future__ import annotations

from accelerate import PartialState
from torch import nn

from zoft.config import RunConfig
from zoft.rules import rule
from zoft.streaming.stream import stream


def within_budget(config: RunConfig, model: nn.Module, weight_rounding: str | None = None) -> str | None:
    """Stream what does not fit, and say so in words; None: no budget, or all fits.

    Args:
        weight_rounding: with which the model will be written; None: as the run's settings say.

    Raises:
        UsageError: see `zoft.streaming.stream`.
    """
    if config.run.memory_budget is None:
        return None
    made = stream(
        model,
        config.run.memory_budget,
        config.run.stream_to,
        device=PartialState().device,
        folder=config.training.get("output_dir") or config.run.runs_dir,
        weight_rounding=weight_rounding or config.zo.weight_rounding,
        buffers=len(rule(config.zo.zo_rule, **config.zo.rule_settings).buffers),
    )
    return None if made is None else made.words()
