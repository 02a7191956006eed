"""`zoft finetune recipe=NAME|PATH key=value …`: from a recipe to a fine-tuned model.

Everything that can be wrong with the settings is found before torch or Transformers is imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from zoft.config import RunConfig, load_config
from zoft.config.console import guarded
from zoft.config.manual import asked, manual
from zoft.errors import UsageError
from zoft.finetune.asked_task import check_task


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one fine-tuning; returns the exit code, 2 for wrong input."""
    return guarded(_run, argv)


def refuse_evaluation_settings(config: RunConfig) -> None:
    """UsageError for a setting of `zoft evaluate`, which training would ignore."""
    stray = [f.name for f in fields(config.evaluation) if f.name in config.sources]
    if stray:
        raise UsageError(f"{', '.join(stray)}: for `zoft evaluate` only; leave it out of a fine-tuning run")


def _run(argv: Sequence[str]) -> None:
    if asked(argv):
        print(f"python -m zoft.finetune, accelerate launch -m zoft.finetune or zoft finetune\n\n{manual()}")
        return
    config = load_config(argv)
    refuse_evaluation_settings(config)
    if config.run.task == "eos":  # the edge-of-stability laboratory
        from zoft.stability.lab.run import run

        run(config)
        return
    check_task(config.run)
    from zoft.finetune.session import finetune, finetune_seeds

    if config.run.seeds is None:
        finetune(config)
    else:
        finetune_seeds(config)
