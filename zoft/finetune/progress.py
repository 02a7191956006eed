"""What a command shows of a run while it trains. All of it is in trainer_state.json and with whoever `report_to` names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback

HIDDEN = ("stability/", "zo/")  # a reading of the monitor is some 15 numbers
ENDS = ("_runtime", "_per_second", "_model_preparation_time", "total_flos")


def brief(logs: Mapping[str, Any]) -> dict[str, Any]:
    """The losses, scores and learning rate among `logs`, and how many steps were skipped, if any.

    >>> brief({"loss": 0.5, "stability/trace": 3.0, "zo/skipped_steps": 2.0, "eval_runtime": 1.0, "epoch": 1.0})
    {'loss': 0.5, 'zo/skipped_steps': 2.0, 'epoch': 1.0}
    """
    skipped = "zo/skipped_steps"
    return {
        name: value
        for name, value in logs.items()
        if (name == skipped and value) or not (name.startswith(HIDDEN) or name.endswith(ENDS))
    }


class _Brief(TrainerCallback):
    """Before a callback that prints what is logged."""

    reads_weights = False  # so a step's update need not be finished before it

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        super().on_log(args, state, control, logs=brief(logs or {}), **kwargs)


class BriefProgress(_Brief, ProgressCallback):
    """Transformers' bar and lines."""


class BriefPrinter(_Brief, PrinterCallback):
    """Transformers' lines where there is no bar (`disable_tqdm=true`)."""


def show_briefly(trainer: Trainer) -> None:
    """Put the brief ones where Transformers' stand."""
    for kind, own in ((ProgressCallback, BriefProgress), (PrinterCallback, BriefPrinter)):
        if trainer.pop_callback(kind) is not None:
            trainer.add_callback(own)
