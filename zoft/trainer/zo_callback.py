"""Zeroth-order training for a Trainer that somebody else wrote: one callback in its constructor."""

from __future__ import annotations

import inspect
from typing import Any

from transformers import Trainer, TrainerCallback

from zoft.errors import UsageError
from zoft.trainer.mixin import ZOMixin
from zoft.trainer.settings import ZOSettings


class ZOCallback(TrainerCallback):
    """`Trainer(..., callbacks=[ZOCallback(zo_eps=2**-10)])` trains with forward passes only, step for step as ZOTrainer does.

    Callbacks are never handed their trainer, so this one looks for the constructor that calls it; where that cannot be
    relied upon, `ZOCallback(...).attach(trainer)` says it in words. The trainer's class is replaced by one with `ZOMixin`
    in front: the same code as ZOTrainer, around whatever the trainer itself overrides (TRL's SFTTrainer, say).

    Learning rate and schedule come from the trainer's own arguments, whose defaults (5e-5, linear decay) are made for AdamW.

    Raises:
        UsageError: a setting is out of range or unknown; the callback was added after the trainer was built.
    """

    def __init__(self, **settings: Any) -> None:
        unknown = settings.keys() - ZOSettings.__dataclass_fields__.keys()
        if unknown:
            raise UsageError(f"ZOCallback has no setting {', '.join(sorted(unknown))}; see zoft.trainer.settings.ZOSettings")
        self.settings = ZOSettings(**settings)
        self._attached = False

    def attach(self, trainer: Trainer) -> Trainer:
        """Make `trainer` train with forward passes only. Returns it."""
        if isinstance(trainer, ZOMixin):
            raise UsageError("this trainer is zeroth-order already")
        kind = type(trainer)
        trainer.__class__ = type(f"ZO{kind.__name__}", (ZOMixin, kind), {"__module__": kind.__module__})
        assert isinstance(trainer, ZOMixin)
        trainer.zo_settings = self.settings
        trainer.check_zo()
        self._attached = True
        return trainer

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._attached:
            return
        frame = inspect.currentframe()
        while frame is not None:
            trainer = frame.f_locals.get("self")
            if frame.f_code.co_name == "__init__" and isinstance(trainer, Trainer):
                self.attach(trainer)
                return
            frame = frame.f_back
        raise UsageError("ZOCallback could not find its trainer; call ZOCallback(...).attach(trainer) after building it")

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self._attached:
            raise UsageError(
                "ZOCallback was added after the trainer was built, so training would use gradients; pass it in "
                "Trainer(callbacks=[...]) or call ZOCallback(...).attach(trainer)"
            )
