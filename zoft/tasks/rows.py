"""Rows of data, from a local file or the Hub, as dictionaries from column to value. Nothing is cached by zoft."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO, cast

from zoft.errors import UsageError
from zoft.tasks.base import HubSource, Task

Row = Mapping[str, Any]


def rows_of_file(path: str | Path, task: Task) -> list[Row]:
    """The rows of a json, jsonl, csv, tsv, txt or parquet file (.gz too), columns named as the task names them.

    Raises:
        UsageError: no such file, another format, unreadable, no rows, a column that the task reads is missing.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UsageError(f"the data file {path} does not exist; relative paths start at {Path.cwd()}")
    ending = Path(path.name.removesuffix(".gz")).suffix.lower()
    reader = _READERS.get(ending)
    if reader is None:
        raise UsageError(f"{path}: cannot read {ending or 'a file without an ending'}; use {', '.join(_READERS)}")
    try:
        records = list(reader(path, task))
    except (ValueError, csv.Error, OSError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{path}: cannot be read as {ending.lstrip('.')}: {error}") from error
    return _checked(records, task, str(path))


def rows_of_hub(hub: HubSource, split: str, task: Task) -> list[Row]:
    """The rows of one split on the Hub (or in `datasets`' cache).

    Raises:
        UsageError: it cannot be loaded, as without a network; no rows; a column is missing.
    """
    import datasets

    name = f"{hub.repository}/{hub.configuration}" if hub.configuration else hub.repository
    try:
        at: dict[str, Any] = {} if hub.revision is None else {"revision": hub.revision}
        loaded: Any = datasets.load_dataset(hub.repository, hub.configuration, split=split, **at)
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"task {task.name}: {name} ({split}) cannot be loaded from the Hub: {error}; "
            "without a network, pass the data as train_file=… validation_file=…"
        ) from error
    return _checked(loaded.to_list(), task, f"{name}, {split}")


def _checked(records: list[Any], task: Task, source: str) -> list[Row]:
    if not records:
        raise UsageError(f"{source}: the dataset is empty; give a file with at least one row")
    wrong = next((n for n, record in enumerate(records, start=1) if not isinstance(record, dict)), None)
    if wrong is not None:
        raise UsageError(
            f"{source}, row {wrong}: expected an object with named columns, but found {records[wrong - 1]!r}"
        )
    if task.aliases:
        records = [_renamed(record, task) for record in records]
    first = next((row for record in records for row in task.unfolded(record)), {})
    missing = [column for column in task.columns if column not in first]
    if missing:
        needs = f"task {task.name} (template, label_column) needs {', '.join(map(repr, missing))}"
        raise UsageError(f"{source}: {needs}, but the columns are: {', '.join(map(str, first))}")
    return records


def _renamed(record: Row, task: Task) -> Row:
    return {
        task.aliases.get(name, name) if task.aliases.get(name) not in record else name: v for name, v in record.items()
    }


def _opened(path: Path, newline: str | None = None) -> TextIO:
    """The text of a file, compressed or not."""
    opened = gzip.open if path.suffix == ".gz" else open
    return cast(TextIO, opened(path, "rt", encoding="utf-8-sig", newline=newline))


def _json(path: Path, task: Task) -> list[Any]:
    with _opened(path) as text:
        document = json.load(text)
    try:
        return task.records(document)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def _jsonl(path: Path, task: Task) -> Iterator[Any]:
    with _opened(path) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield json.loads(line)
                except json.JSONDecodeError as error:
                    raise UsageError(f"{path}, line {number}: not a JSON object: {error}") from None


def _txt(path: Path, task: Task) -> Iterator[Row]:
    with _opened(path) as lines:
        yield from (task.of_line(line.rstrip("\r\n")) for line in lines if line.strip())


def _csv(path: Path, task: Task) -> Iterator[Row]:
    return _delimited(path, task, delimiter=",", quoting=csv.QUOTE_MINIMAL)


def _tsv(path: Path, task: Task) -> Iterator[Row]:
    # GLUE's files hold bare quotation marks: between tabs nothing is quoted.
    return _delimited(path, task, delimiter="\t", quoting=csv.QUOTE_NONE)


def _delimited(path: Path, task: Task, **dialect: Any) -> Iterator[Row]:
    with _opened(path, newline="") as lines:
        records = csv.reader(lines, **dialect)
        first = next(records, None)
        if first is None:
            return
        names = first
        headed = bool(set(task.columns) & {task.aliases.get(name, name) for name in first})
        layout = next((layout for layout in task.headerless if len(layout) == len(first)), None)
        if not headed and layout is not None:
            names = list(layout)
            yield dict(zip(names, first, strict=True))
        for number, record in enumerate(records, start=1 if names is first else 2):
            if not record:
                continue
            if len(record) < len(names) and task.ragged == "short_left_out":
                continue
            if len(record) > len(names) and task.ragged == "surplus_before_last":
                record = [*record[: len(names) - 1], record[-1]]
            if len(record) != len(names):
                raise UsageError(f"{path}, row {number}: {len(record)} fields, but there are {len(names)} columns")
            yield dict(zip(names, record, strict=True))


def _parquet(path: Path, task: Task) -> list[Row]:
    from pyarrow import parquet

    return parquet.read_table(path).to_pylist()


_READERS: dict[str, Callable[[Path, Task], Any]] = {
    ".json": _json,
    ".jsonl": _jsonl,
    ".csv": _csv,
    ".tsv": _tsv,
    ".txt": _txt,
    ".parquet": _parquet,
}
