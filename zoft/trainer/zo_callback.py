"""Zeroth-order training for a Trainer that somebody else wrote: one callback in its constructor."""

from __future__ import annotations

import warnings
from typing import Any

from transformers import Trainer, TrainerCallback

from zoft.errors import UsageError
from zoft.optimizer import ZOOptimizer
from zoft.trainer.constructor import trainer_being_built
from zoft.trainer.mixin import ZOMixin
from zoft.trainer.settings import ZOSettings

# Their own training_step only wraps Trainer's (activation offloading, evaluation of the same loss).
KNOWN_STEPS = ("trl.trainer.sft_trainer", "transformers.")


class ZOCallback(TrainerCallback):
    """`Trainer(..., callbacks=[ZOCallback(zo_eps=2**-10)])` trains with forward passes only, step for step as ZOTrainer does.

    Callbacks are never handed their trainer, so this one looks for the constructor that calls it; where that cannot be
    relied upon, `ZOCallback(...).attach(trainer)` says it in words. The trainer's class is replaced by one with `ZOMixin`
    in front: the same code as ZOTrainer, around whatever the trainer itself overrides (TRL's SFTTrainer, say).

    Learning rate and schedule come from the trainer's own arguments, whose defaults (5e-5, linear decay) are made for AdamW;
    `ZOCallback(learning_rate="auto")` lets the stability monitor choose the rate, times the schedule's factor.

    Raises:
        UsageError: a setting is out of range or unknown; the callback was added after the trainer was built.
    """

    def __init__(self, **settings: Any) -> None:
        rate = settings.pop("learning_rate", None)
        if rate not in (None, "auto"):
            raise UsageError(
                f"ZOCallback takes learning_rate='auto' only, not {rate!r}; a number goes into TrainingArguments"
            )
        if rate == "auto":
            settings["stability_auto"] = True
        unknown = settings.keys() - ZOSettings.__dataclass_fields__.keys()
        if unknown:
            raise UsageError(
                f"ZOCallback has no setting {', '.join(sorted(unknown))}; see zoft.trainer.settings.ZOSettings"
            )
        self.settings = ZOSettings(**settings)

    def attach(self, trainer: Trainer) -> Trainer:
        """Make `trainer` train with forward passes only. Returns it."""
        if isinstance(trainer, ZOMixin):
            raise UsageError("this trainer is zeroth-order already")
        kind = type(trainer)
        if kind.training_step is not Trainer.training_step and not kind.__module__.startswith(KNOWN_STEPS):
            warnings.warn(
                f"{kind.__name__} has a training_step of its own, which zeroth-order training replaces: what it does besides "
                "taking compute_loss's gradient will not happen",
                stacklevel=2,
            )
        kept: dict[str, Any] = vars(trainer.args)
        for name in ("gradient_checkpointing", "activation_checkpointing"):  # old and new name of TRL's default
            if kept.get(name):
                warnings.warn(
                    f"{name} is switched off: no activations are kept for a backward pass, so it saves nothing",
                    stacklevel=2,
                )
                kept[name] = False
        trainer.__class__ = type(f"ZO{kind.__name__}", (ZOMixin, kind), {"__module__": __name__})
        assert isinstance(trainer, ZOMixin)
        trainer.zo_settings = self.settings
        trainer.check_zo()
        return trainer

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer = trainer_being_built("ZOCallback")
        if not isinstance(trainer, ZOMixin):  # ZOTrainer is zeroth-order without this callback
            self.attach(trainer)

    def on_train_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        if not isinstance(getattr(optimizer, "optimizer", optimizer), ZOOptimizer):  # accelerate wraps it
            raise UsageError(
                "ZOCallback was added after the trainer was built, so training would use gradients; pass it in "
                "Trainer(callbacks=[...]) or call ZOCallback(...).attach(trainer)"
            )
