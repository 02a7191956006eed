"""Tasks by name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from zoft.errors import UsageError
from zoft.tasks.base import Task
from zoft.tasks.copa import COPA
from zoft.tasks.custom import custom
from zoft.tasks.rte import RTE
from zoft.tasks.squad import SQUAD
from zoft.tasks.sst2 import SST2

TASKS: dict[str, Task] = {task.name: task for task in (SST2, RTE, COPA, SQUAD)}


def resolve(
    name: str | None,
    template: str | None = None,
    label_words: Mapping[str, str] | None = None,
    label_column: str | None = None,
    target_column: str | None = None,
) -> Task:
    """The task `name` with the user's changes; None or `custom`: one made of the user's settings alone.

    Raises:
        UsageError: no such task; settings that it does not have or that are wrong.
    """
    if name is None or name == "custom":
        return custom(template, label_words, label_column, target_column)
    if name not in TASKS:
        near = difflib.get_close_matches(name.lower().replace("-", "").replace("_", ""), TASKS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f"task {name!r} does not exist{hint}; there are: {', '.join(TASKS)}, custom")
    return TASKS[name].with_settings(template, label_words, label_column, target_column)
