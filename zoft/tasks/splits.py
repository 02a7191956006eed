"""Which examples train, which are held out: seeded draws that do not depend on anything else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zoft.errors import UsageError
from zoft.tasks.base import Example, Task
from zoft.tasks.rows import Row, rows_of_file, rows_of_hub


@dataclass(frozen=True)
class Splits:
    """Examples to train on, to select by (dev) and to report (test); no example of one file is in two of them."""

    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    test: tuple[Example, ...]
    notes: tuple[str, ...] = ()  # what was done other than asked, in words


def load_splits(
    task: Task,
    train_file: str | Path | None = None,
    validation_file: str | Path | None = None,
    test_file: str | Path | None = None,
    *,
    num_train: int | None = 1000,
    num_dev: int | None = 500,
    num_test: int | None = 1000,
    examples_per_label: int | None = None,
    split_seed: int = 0,
) -> Splits:
    """MeZO's rule: train and dev are drawn from the training data, test from the validation data.

    With a test file as well, dev is drawn from the validation file; with a training file alone, all three come from
    it. Without files the task's data on the Hub is used. `examples_per_label` (k-shot) replaces `num_train` and
    `num_dev`: that many examples of each label for training and as many others for dev. A number of None: all.

    Raises:
        UsageError: a file is missing, empty or lacks a column; a label (of any row) is not allowed; too few rows.
    """
    if train_file is None and (validation_file is not None or test_file is not None):
        raise UsageError("validation_file and test_file need train_file beside them")
    train_pool = _pool(task, train_file, "train")
    dev_pool = _pool(task, validation_file, "validation") if validation_file and test_file else None
    held_out = test_file or validation_file
    test_pool = _pool(task, held_out, "test") if held_out or train_file is None else None

    notes: list[str] = []
    test = None if test_pool is None else tuple(_ordered(task, test_pool, split_seed)[:num_test])
    dev = None if dev_pool is None else tuple(_ordered(task, dev_pool, split_seed)[:num_dev])
    order = _ordered(task, train_pool, split_seed)
    if examples_per_label is not None:
        train, shots = k_shot(order, task.labels, examples_per_label, with_dev=dev is None)
        if test is None:
            taken = {example.row for example in (*train, *shots)}
            test = tuple(example for example in order if example.row not in taken)[:num_test]
        return Splits(train, shots if dev is None else dev, test)

    asked_dev, asked_test = (0 if dev is not None else num_dev), (0 if test is not None else num_test)
    if asked_dev is None or asked_test is None:
        raise UsageError("num_dev=none and num_test=none need a file of their own; with one file give numbers")
    of_train, of_dev, of_test = part_sizes(len(order), num_train, asked_dev, asked_test)
    if of_train < 1 or (asked_dev and not of_dev) or (asked_test and not of_test):
        raise UsageError(f"{_source(task, train_file)}: {len(order)} rows are too few to train on and to hold some out")
    if of_dev < asked_dev or of_test < asked_test or (num_train or 0) > of_train:
        parts = [f"{of_train} to train"]
        parts += [
            f"{n} as {name}" for n, asked, name in ((of_dev, asked_dev, "dev"), (of_test, asked_test, "test")) if asked
        ]
        notes.append(f"{_source(task, train_file)} has {len(order)} rows, fewer than asked for: {', '.join(parts)}")
    cuts = of_train, of_train + of_dev, of_train + of_dev + of_test
    return Splits(
        tuple(order[: cuts[0]]),
        tuple(order[cuts[0] : cuts[1]]) if dev is None else dev,
        tuple(order[cuts[1] : cuts[2]]) if test is None else test,
        tuple(notes),
    )


def part_sizes(rows: int, train: int | None, dev: int, test: int) -> tuple[int, int, int]:
    """How many of `rows` go where. None: what the others leave.

    As asked when there are enough; else training takes what dev and test leave, where that is half or more (MeZO's CB
    and COPA), and otherwise all three shrink in proportion.

    >>> part_sizes(67349, 1000, 500, 0), part_sizes(250, 1000, 100, 0), part_sizes(2000, None, 500, 0)
    ((1000, 500, 0), (150, 100, 0), (1500, 500, 0))
    >>> part_sizes(300, 1000, 500, 0)
    (200, 100, 0)
    """
    if train is None:
        train = max(rows - dev - test, dev + test)  # never fewer than are held out
    if train + dev + test > rows and 2 * (dev + test) <= rows:
        train = rows - dev - test
    total = train + dev + test
    if total > rows:
        dev, test = dev * rows // total, test * rows // total
        train = rows - dev - test
    return train, dev, test


def k_shot(
    order: Sequence[Example], labels: Sequence[str], k: int, with_dev: bool
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """The first k examples of each label in `order`, and (`with_dev`) the next k of each.

    Raises:
        UsageError: the task has no labels, or too few examples of one.
    """
    if not labels:
        raise UsageError("examples_per_label needs a task with labels; use num_train instead")
    train: list[Example] = []
    dev: list[Example] = []
    for index, label in enumerate(labels):
        those = [example for example in order if example.gold == index]
        needed = 2 * k if with_dev else k
        if len(those) < needed:
            parts = "train and dev" if with_dev else "train"
            raise UsageError(
                f"examples_per_label={k} needs {needed} examples of label {label!r} ({parts}); there are {len(those)}"
            )
        train += those[:k]
        dev += those[k:needed]
    return tuple(train), tuple(dev)


def permutation(length: int, seed: int) -> list[int]:
    """A seeded order of 0 … length - 1. RandomState's stream is frozen: the same in every release of NumPy."""
    import numpy

    return numpy.random.RandomState(seed).permutation(length).tolist()


def _ordered(task: Task, pool: Sequence[Example], seed: int) -> list[Example]:
    """The examples in the order in which parts are taken from them."""
    return list(pool) if task.ordered else [pool[i] for i in permutation(len(pool), seed)]


def _source(task: Task, file: str | Path | None) -> str:
    return str(file) if file is not None else f"task {task.name}"


def _pool(task: Task, file: str | Path | None, split: str) -> list[Example]:
    """Every example of a file, or of the task's split on the Hub."""
    if file is not None:
        return examples_of(task, rows_of_file(file, task), Path(file).name)
    hub = task.hub
    if hub is None:
        raise UsageError(f"task {task.name} has no data on the Hub; give train_file=…")
    name = {"train": hub.train, "validation": hub.validation, "test": hub.test or hub.validation}[split]
    return examples_of(task, rows_of_hub(hub, name, task), f"{hub.repository} {name}")


def examples_of(task: Task, records: Sequence[Row], source: str = "") -> list[Example]:
    """The examples of all records, in order; `row` counts records from 1."""
    return [
        task.example(row, number, source)
        for number, record in enumerate(records, start=1)
        for row in task.unfolded(record)
    ]
