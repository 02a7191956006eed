"""Tasks: prompts, answers, splits and their tokens. See docs/adding-a-task.md."""

from zoft.tasks.base import Architecture, Example, HubSource, Task
from zoft.tasks.classification import Classification
from zoft.tasks.splits import Splits, load_splits
from zoft.tasks.table import TASKS, resolve

__all__ = [
    "TASKS",
    "Architecture",
    "Classification",
    "Example",
    "HubSource",
    "Splits",
    "Task",
    "load_splits",
    "resolve",
]
