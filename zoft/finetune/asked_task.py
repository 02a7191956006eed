"""The task that a run asks for, checked by its name and description: without torch, Transformers or the data."""

from __future__ import annotations

from zoft.config.run import RunSettings
from zoft.errors import UsageError
from zoft.tasks import resolve

WORLDS = {"quickstart": "zoft.quickstart", "arithmetic": "zoft.quickstart.arithmetic"}  # offline: a model and its task
# What a world's task has of its own
OF_DATA = (
    "train_file", "validation_file", "test_file", "template", "label_words", "label_column", "target_column",
    "max_new_tokens", "examples_per_label", "split_seed",
)  # fmt: skip


def check_task(run: RunSettings) -> None:
    """Refuses, before anything heavy is imported, what `gather_materials` would refuse of the task's settings.

    Raises:
        UsageError: no task, or none of that name; settings that it lacks or does not have; data beside an offline world.
    """
    if run.task not in WORLDS:
        resolve(run.task, run.template, run.label_words, run.label_column, run.target_column)
        return
    given = [name for name in OF_DATA if getattr(run, name) != getattr(RunSettings, name)]
    if given:
        raise UsageError(
            f"{', '.join(given)}: task={run.task} is an offline world with data and a prompt of its own, which reads no such "
            "setting. For your own data name a model and a task, as in model=FOLDER-OR-HUB-NAME task=sst2 (or task=custom with "
            f"template and label_words), beside the recipe or in its place; else leave {', '.join(given)} out"
        )
