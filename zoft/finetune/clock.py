"""`max_time`: a run that stops by the clock. And at which step a run began in this process."""

from __future__ import annotations

import time
from typing import Any

from transformers import TrainerCallback

from zoft.distributed import gather


class Begun(TrainerCallback):
    """At which step training began here: that of the checkpoint that it went on from, or 0."""

    step = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.step = state.global_step


class MaxTime(TrainerCallback):
    """Stops training at the end of the step in which `seconds` of wall-clock time have passed since training began,
    with an evaluation and a checkpoint there if the run makes any.

    The slowest rank's clock decides for all, so that no rank waits for one that has left.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._start = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._start = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        elapsed = max(row[0] for row in gather([time.monotonic() - self._start]))
        if elapsed >= self.seconds:
            control.should_training_stop = True
            control.should_log = True
            control.should_evaluate |= args.eval_strategy != "no"
            control.should_save |= args.save_strategy != "no"
