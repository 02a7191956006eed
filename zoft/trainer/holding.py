"""Does the optimizer's step follow a micro-batch with nothing in between that could read a weight?"""

from __future__ import annotations

from collections.abc import Callable

from transformers import Trainer, TrainerCallback


def step_follows(trainer: Trainer, own: Callable[..., object]) -> bool:
    """Whether weights may stay displaced from the end of `own`, a training_step, to `optimizer.step()`.

    They may behind the last micro-batch of a step, unless the training_step was wrapped or overridden, or a callback
    has something to do before the step (`on_pre_optimizer_step`).
    """
    return (
        trainer.accelerator.sync_gradients
        and type(trainer).training_step is own
        and "training_step" not in vars(trainer)
        and all(
            type(callback).on_pre_optimizer_step is TrainerCallback.on_pre_optimizer_step
            and "on_pre_optimizer_step" not in vars(callback)
            for callback in trainer.callback_handler.callbacks
        )
    )
