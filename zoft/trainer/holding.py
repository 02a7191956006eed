"""Does the optimizer's step, or the next step's losses, follow with nothing in between that could read a weight?"""

from __future__ import annotations

from collections.abc import Callable

from transformers import Trainer, TrainerCallback

BETWEEN = ("on_optimizer_step", "on_step_end", "on_log", "on_epoch_end", "on_epoch_begin", "on_step_begin")


def step_follows(trainer: Trainer, own: Callable[..., object]) -> bool:
    """Whether weights may stay displaced from the end of `own`, a training_step, to `optimizer.step()`.

    They may behind the last micro-batch of a step, unless the training_step was wrapped or overridden, or a callback
    has something to do before the step (`on_pre_optimizer_step`).
    """
    return (
        trainer.accelerator.sync_gradients
        and type(trainer).training_step is own
        and "training_step" not in vars(trainer)
        and not any(_does(callback, "on_pre_optimizer_step") for callback in trainer.callback_handler.callbacks)
    )


def losses_follow(trainer: Trainer, own_log: Callable[..., object]) -> bool:
    """Whether weights may stay displaced from the coming `optimizer.step()` to the next step's losses.

    They may unless training ends, evaluates or saves between the two, as far as Trainer's settings tell, or a callback that
    is not Transformers' own, or a `log` other than `own_log` (the class's, or one put on the trainer itself), has something
    to do there. A callback says by an attribute `reads_weights = False` that it neither reads nor writes them there.
    """
    args, state = trainer.args, trainer.state
    done = state.global_step + 1
    if done >= state.max_steps or type(trainer).log is not own_log or "log" in vars(trainer):
        return False
    for strategy, every in ((args.eval_strategy, state.eval_steps), (args.save_strategy, state.save_steps)):
        if strategy == "epoch" or (strategy == "steps" and done % every == 0):
            return False
    return not any(
        _does(callback, event)
        for callback in trainer.callback_handler.callbacks
        if not type(callback).__module__.startswith("transformers.") and getattr(callback, "reads_weights", True)
        for event in BETWEEN
    )


def _does(callback: TrainerCallback, event: str) -> bool:
    return getattr(type(callback), event) is not getattr(TrainerCallback, event) or event in vars(callback)
