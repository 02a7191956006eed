"""Training settings and launchers that zeroth-order training cannot honour: refused with the way out, never ignored.

Used before Transformers is imported (by the configuration) and again by whoever builds a trainer in Python.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zoft.errors import UsageError
from zoft.limits import check_not_negative, check_seed

RULE = "the update is zo_rule's, and no optimizer of Transformers' is made; leave it out"


def _other_than(*usual: float) -> Callable[[Any], bool]:
    return lambda value: value is not None and value not in usual


# Setting -> (is this value one that cannot be honoured, why and what to do instead)
REFUSED: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "fp16": (
        bool,
        "fp16 mixed precision scales gradients, and no gradient is ever made; "
        "use dtype=float16 or dtype=bfloat16 for 16-bit weights, or bf16=true for mixed precision",
    ),
    "deepspeed": (bool, "DeepSpeed partitions gradients and optimizer states, and there are none; leave it out"),
    "gradient_checkpointing": (
        bool,
        "no activations are kept for a backward pass, so nothing is saved; set it to false",
    ),
    "activation_checkpointing": (bool, "no activations are kept for a backward pass; set it to false"),
    "neftune_noise_alpha": (bool, "noise in the embeddings would differ between the two losses compared; leave it out"),
    "optim": (
        lambda value: value is not None and not str(getattr(value, "value", value)).startswith("adamw_torch"),
        f"{RULE}, or give it to the method that has one (zoft compare: adamw.optim=…)",
    ),
    "optim_args": (bool, RULE),
    "adam_beta1": (_other_than(0.9), f"{RULE}, and set zo_momentum"),
    "adam_beta2": (_other_than(0.999), f"{RULE}, and set zo_beta2"),
    "adam_epsilon": (_other_than(1e-8), RULE),
    "max_grad_norm": (
        _other_than(0.0, 1.0),
        "there is no gradient to clip; leave it out (stability and guard bound steps)",
    ),
    "torch_empty_cache_steps": (bool, "no graph is kept that would fill the cache; leave it out"),
    "auto_find_batch_size": (bool, "a smaller batch after a failure is a different run; set the batch size yourself"),
}


COUNTS = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")  # at least 1 each


def check_training_settings(values: Mapping[str, Any], gradients: bool = False) -> None:
    """UsageError for the first setting in `values` (a partial mapping, or `vars` of TrainingArguments) not honoured.

    Counts and numbers are checked here too: Transformers finds out about them half-way.

    Args:
        gradients: the run takes some, so what needs them is honoured.
    """
    for name, (refuses, reason) in () if gradients else REFUSED.items():
        value = values.get(name)
        if refuses(value):
            raise UsageError(f"{name}={value}: {reason}")
    for name in COUNTS:
        count = values.get(name)
        if isinstance(count, int) and count < 1:
            raise UsageError(f"{name} must be at least 1, but {count} was given")
    for name, check in (
        ("learning_rate", check_not_negative),
        ("weight_decay", check_not_negative),
        ("seed", check_seed),
    ):
        value = values.get(name)
        if value is not None and not (name == "learning_rate" and value == "auto"):
            check(name, value)
    evaluations = values.get("eval_strategy") or "no"  # text, or Transformers' enumeration
    if values.get("load_best_model_at_end") and getattr(evaluations, "value", evaluations) == "no":
        raise UsageError(
            "load_best_model_at_end=True chooses by evaluations, but eval_strategy=no makes none; set eval_strategy=steps "
            "(and save_strategy to the same), or load_best_model_at_end=false"
        )
    checkpoint = values.get("resume_from_checkpoint")
    if isinstance(checkpoint, str) and checkpoint.lower() not in ("true", "false", ""):
        check_checkpoint(checkpoint)


def check_waiting(merge_every: int, values: Mapping[str, Any]) -> None:
    """Raises UsageError: updates are to wait (zo_merge_every), and these training settings would not let them."""
    if merge_every == 1:
        return
    epochs = [
        n for n in ("eval_strategy", "save_strategy") if getattr(values.get(n), "value", values.get(n)) == "epoch"
    ]
    if values.get("weight_decay") or epochs:
        what = f"weight_decay={values['weight_decay']}" if values.get("weight_decay") else f"{epochs[0]}=epoch"
        why = "shrinks all weights in every step" if values.get("weight_decay") else "may read them after any step"
        raise UsageError(
            f"zo_merge_every={merge_every} lets updates of matrices wait, and {what} {why}, so none could: leave one out"
            + (", or say steps instead of epoch" if not values.get("weight_decay") else "")
        )


def check_measuring(zo: Any, values: Mapping[str, Any]) -> None:
    """Raises UsageError: learning_rate=auto, and all steps would measure.

    Args:
        zo: `ZOSettings`.
    """
    steps, measuring = values.get("max_steps") or -1, zo.stability_auto_steps
    auto = zo.stability_auto or values.get("learning_rate") == "auto"
    if auto and 0 < steps <= measuring:
        raise UsageError(
            f"learning_rate=auto measures in its first steps and moves nothing in them (stability_auto_steps={measuring}), and "
            f"max_steps={steps} ends the run with them: take more steps, fewer measuring ones (at least 4), or a number"
        )


def check_smoothing(factor: float | None, whose: str) -> None:
    """Raises UsageError: labels are to be smoothed, and the loss is `whose` own."""
    if factor:
        raise UsageError(
            f"label_smoothing_factor={factor}: {whose} computes its own loss, of the labels as they are; leave it out"
        )


def check_checkpoint(folder: str) -> None:
    """UsageError unless `folder` holds a checkpoint of the Trainer."""
    path = Path(folder)
    if not path.is_dir():
        raise UsageError(f"resume_from_checkpoint: the folder {folder} does not exist")
    if not (path / "trainer_state.json").is_file():
        inside = sorted(entry.name for entry in path.glob("checkpoint-*"))
        hint = f"; did you mean {path / inside[-1]}?" if inside else "; name a folder such as runs/…/checkpoint-500"
        raise UsageError(f"resume_from_checkpoint: {folder} is no checkpoint (no trainer_state.json in it){hint}")


def whole_checkpoints(run: Path) -> dict[int, Path]:
    """By step, the checkpoints in a run's folder that were written to their end: Trainer writes trainer_state.json last."""
    return {
        int(number): path
        for path in run.glob("checkpoint-*")
        if (number := path.name.partition("-")[2]).isdigit() and (path / "trainer_state.json").is_file()
    }


def last_checkpoint(folder: str | None) -> str:
    """The newest whole checkpoint in a run's folder.

    Raises:
        UsageError: there is none.
    """
    run = Path(folder or ".")
    found = whole_checkpoints(run)
    if not found:
        raise UsageError(
            f"resume_from_checkpoint=True: there is no whole checkpoint in {run}; name one, or begin anew without this setting"
        )
    return str(found[max(found)])


def check_launch(environ: Mapping[str, str]) -> None:
    """UsageError for what `accelerate launch` asks of its processes through the environment and cannot be had."""
    if environ.get("ACCELERATE_MIXED_PRECISION", "").lower() == "fp16":
        raise UsageError(f"accelerate launch asks for mixed precision fp16: {REFUSED['fp16'][1]}")
    if environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true":
        raise UsageError(f"accelerate launch asks for DeepSpeed: {REFUSED['deepspeed'][1]}")
    if environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        if environ.get("FSDP_VERSION", "1") != "2":
            raise UsageError("accelerate launch asks for FSDP 1, whose flat parameters hide names; use fsdp_version: 2")
        if environ.get("FSDP_OFFLOAD_PARAMS", "").lower() == "true":
            raise UsageError("accelerate launch offloads parameters to the CPU; use fsdp_offload_params: false")
