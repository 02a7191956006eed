"""Several processes, one run: that they train the same thing, and which part of the batch each is given."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from torch.utils.data import DataLoader

from zoft import __version__
from zoft.agreement import Agreement, require_equal, require_same_settings
from zoft.backends import Rounding
from zoft.checksum import checksum
from zoft.distributed import set_timeout
from zoft.errors import UsageError
from zoft.optimizer import ZOOptimizer
from zoft.spread import Spread
from zoft.trainer.settings import ZOSettings

# Of TrainingArguments: what decides which numbers a run computes, and when its processes meet.
DECIDING = (
    "learning_rate", "weight_decay", "max_steps", "num_train_epochs", "per_device_train_batch_size",
    "per_device_eval_batch_size", "gradient_accumulation_steps", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps",
    "seed", "data_seed", "bf16", "dataloader_drop_last", "average_tokens_across_devices", "eval_strategy", "eval_steps",
    "save_strategy", "save_steps", "logging_strategy", "logging_steps", "load_best_model_at_end", "ddp_timeout",
)  # fmt: skip


def check_same_run(args: Any, zo: ZOSettings, train_dataset: Any) -> None:
    """Before anything is computed: the same settings, software and number of examples in every process.

    Raises:
        UsageError: one differs; the message names the setting and the ranks.
        ReplicaError: a process does not answer within `ddp_timeout`.
    """
    if args.world_size == 1:
        return
    set_timeout(args.ddp_timeout)
    settings: dict[str, object] = {name: getattr(args, name, None) for name in DECIDING}
    settings |= {f.name: getattr(zo, f.name) for f in fields(zo)}
    try:
        settings["number of training examples"] = len(train_dataset)
    except TypeError:
        settings["number of training examples"] = None
    require_same_settings(settings | {"version of zoft": __version__, "version of torch": torch.__version__})


def require_same_start(model: torch.nn.Module) -> None:
    """Raises UsageError, naming the ranks, unless all processes hold the same weights, frozen ones included."""
    require_equal(float(checksum(model.parameters()) >> 16), "starting weights (a checksum of them)")


def watch(zo: ZOOptimizer, every: int) -> None:
    """From here on the processes of `zo` are compared, now and every so many steps (0: only now)."""
    if not zo.space.sharded:  # of one file, cut: nothing to compare
        require_same_start(zo.model)
    rounding = list(Rounding).index(zo.space.rounding)  # `auto` looks at each rank's free memory
    require_equal(rounding, "weight_rounding (set it, instead of auto)")
    if every and not any(isinstance(observer, Agreement) for observer in zo.observers):
        zo.observers.append(Agreement(zo.space, every))


def by_shards(loader: DataLoader, spread: Spread) -> DataLoader:
    """The prepared training loader, but ranks of different groups are given the same batches.

    Raises:
        UsageError: the batches are not dealt out by their number.
    """
    if spread.groups == 1:
        return loader
    dealt: Any = loader.batch_sampler if loader.batch_sampler is not None else loader.dataset
    if not (hasattr(dealt, "num_processes") and hasattr(dealt, "process_index")):
        raise UsageError(
            f"zo_direction_groups={spread.groups} gives several processes the same batches, and those of this loader "
            f"({type(loader).__name__}) are not dealt out by their number; use a dataset with a length, or one group"
        )
    dealt.num_processes, dealt.process_index = spread.shards, spread.shard
    return loader
