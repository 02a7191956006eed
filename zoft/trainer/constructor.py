"""Which trainer is being built: callbacks are told that it is done, and never which one it is."""

from __future__ import annotations

import inspect

from transformers import Trainer

from zoft.errors import UsageError


def trainer_being_built(callback: str) -> Trainer:
    """The trainer whose constructor is running further up the stack; for `on_init_end` of a callback named `callback`.

    Raises:
        UsageError: there is none.
    """
    frame = inspect.currentframe()
    while frame is not None:
        trainer = frame.f_locals.get("self")
        if frame.f_code.co_name == "__init__" and isinstance(trainer, Trainer):
            return trainer
        frame = frame.f_back
    raise UsageError(
        f"{callback} could not find its trainer; leave it out of `callbacks` and call {callback}(...).attach(trainer) "
        "after building it"
    )
