"""The contract of a task: how a row of data becomes a prompt, its possible answers and the right one among them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from zoft.errors import UsageError

# What the model does with a prompt: continue it, fill in its mask, or classify it with a head of its own.
Architecture = Literal["causal", "masked", "classifier"]
T = TypeVar("T", bound="Task")


@dataclass(frozen=True)
class Example:
    """One question, ready to be tokenised.

    The model reads ``prompt + candidates[i]`` exactly as written, so a candidate carries its own leading space
    (``"It was"`` + ``" great"``). A masked LM reads ``prompt``, its mask in place of the candidate, and ``suffix``.

    Raises:
        UsageError: no candidate, an empty one, a gold index outside them; the message names the row.
    """

    prompt: str
    candidates: tuple[str, ...]  # one: text to be taught and generated; two or more: a choice
    gold: int  # index of the right candidate
    row: int  # where it stands in its source, from 1; a header is not counted
    source: str = ""  # file or dataset, to word errors
    passage: tuple[int, int] = (0, 0)  # characters of the prompt that may be dropped, from their left end, to fit
    suffix: str = ""  # what follows the answer in a masked LM's prompt
    answers: tuple[str, ...] = ()  # every text that counts as right, where that is not the gold candidate alone
    names: tuple[str, ...] = ()  # what the candidates are called when compared with `answers`; none: their own text
    group: str = ""  # rows with one group are scored together by metrics that ask for it
    special: bool = True  # whether the tokenizer puts its own tokens around the text; a chat template has done so

    def __post_init__(self) -> None:
        if not self.candidates:
            raise UsageError(f"{self.where}: there is no candidate answer")
        for number, candidate in enumerate(self.candidates):
            if not candidate.strip():
                raise UsageError(f"{self.where}: candidate {number + 1} of {len(self.candidates)} is empty")
        if not 0 <= self.gold < len(self.candidates):
            raise UsageError(f"{self.where}: gold is {self.gold}, but candidates are 0 to {len(self.candidates) - 1}")
        if self.names and len(self.names) != len(self.candidates):
            raise UsageError(f"{self.where}: {len(self.names)} names for {len(self.candidates)} candidates")
        start, end = self.passage
        if not 0 <= start <= end <= len(self.prompt):
            raise UsageError(f"{self.where}: passage {self.passage} is outside the prompt's 0 to {len(self.prompt)}")

    @property
    def where(self) -> str:
        """The row, as an error names it.

        >>> Example("It was", (" bad", " good"), gold=1, row=7, source="train.tsv").where
        'train.tsv, row 7'
        """
        return f"{self.source}, row {self.row}" if self.source else f"row {self.row}"


@dataclass(frozen=True)
class HubSource:
    """Where `datasets` finds a task without running anybody's loading script."""

    repository: str
    configuration: str | None = None
    train: str = "train"
    validation: str = "validation"
    test: str | None = None  # None: its labels are not public, so the validation split serves as the test set
    revision: str | None = None  # None: the main branch


@dataclass(frozen=True)
class Task(ABC):
    """One kind of question. A member is data (a frozen value); only `example` is code."""

    name: str
    metric: str = "accuracy"  # a name in zoft.metrics.METRICS, the field's; or "loss": none
    official: tuple[str, ...] = ()  # the metrics of the task's own benchmark, where they are others
    objective: str = "candidate_likelihood"  # a name in zoft.objectives; language_modelling teaches the gold text alone
    generates: bool = False  # whether the answer is free text, written token by token; `metric` then compares texts
    stop: str | None = "\n"  # where a generated answer ends; None: where the model ends it
    max_new_tokens: int = 50
    num_dev: int = 500  # examples held out to select by, where a run does not say: MeZO's numbers
    architectures: tuple[Architecture, ...] = ("causal", "masked", "classifier")  # what can answer it
    ordered: bool = False  # parts of a file are taken in its order, not drawn: text that runs on
    hub: HubSource | None = None
    headerless: tuple[tuple[str, ...], ...] = ()  # columns of csv and tsv files without a header, by their number
    # What becomes of a row with another number of fields than its file has columns, where a release is known to hold some:
    # too few are left out (QQP); too many are further annotators' labels before the last column, the agreed one (SNLI).
    ragged: Literal["refused", "short_left_out", "surplus_before_last"] = "refused"
    aliases: Mapping[str, str] = field(default_factory=dict)  # column as some files call it -> column as this task does

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """Every column that `example` reads, the label's last."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Every metric of the task, the main one first."""
        return tuple(name for name in (self.metric, *self.official) if name != "loss")

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels a k-shot split is balanced over, in the order of the candidates; empty where there are none."""
        return ()

    @abstractmethod
    def example(self, row: Mapping[str, Any], number: int, source: str = "") -> Example:
        """The example in row `number` (from 1) of `source`.

        Raises:
            UsageError: a missing column, a label that is not among the task's; it names the row.
        """

    def unfolded(self, record: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
        """The rows that one record of the data holds: several where questions are nested in a passage."""
        return (record,)

    def records(self, document: Any) -> list[Any]:
        """The records of a parsed json file: a list, alone or as the only list in an object (as under "data").

        Raises:
            UsageError: it is neither.
        """
        lists = [document] if isinstance(document, list) else []
        if isinstance(document, Mapping):
            lists = [value for value in document.values() if isinstance(value, list)]
        if len(lists) != 1:
            raise UsageError("expected a list of rows, alone or as the one list in an object")
        return lists[0]

    def of_line(self, line: str) -> Mapping[str, Any]:
        """The record in a line of a txt file.

        Raises:
            UsageError: the task has no such format.
        """
        raise UsageError(f"task {self.name} does not read txt files; use one with named columns")

    def prompted_for(self: T, architecture: Architecture) -> T:
        """The task with the prompt that suits `architecture`; the same one unless a member says otherwise.

        Raises:
            UsageError: models of this kind cannot answer it.
        """
        if architecture not in self.architectures:
            raise UsageError(
                f"task {self.name} needs a {' or '.join(self.architectures)} model, not a {architecture} one"
            )
        return self

    def worded_by(self: T, tokenizer: Any) -> T:
        """The task with the prompt that suits `tokenizer`: a chat in its chat template. The same one elsewhere."""
        return self

    def with_settings(
        self: T,
        template: str | None = None,
        label_words: Mapping[str, str] | None = None,
        label_column: str | None = None,
        target_column: str | None = None,
    ) -> T:
        """The task with a user's own template, label words, label or target column (None: as it is).

        Raises:
            UsageError: the task has no such thing.
        """
        given = {
            "template": template, "label_words": label_words, "label_column": label_column, "target_column": target_column
        }  # fmt: skip
        changes = {name: value for name, value in given.items() if value is not None}
        for name in changes:
            if name not in type(self).__dataclass_fields__:
                raise UsageError(f"task {self.name} has no {name}; leave the setting out")
        return replace(self, **changes)  # type: ignore[arg-type]


def column_value(row: Mapping[str, Any], column: str, where: str) -> Any:
    """The value of `column`.

    Raises:
        UsageError: there is no such column (it lists those that are there), or nothing in it.
    """
    if column not in row:
        raise UsageError(f"{where}: there is no column {column!r}; the columns are: {', '.join(map(str, row))}")
    if row[column] is None:
        raise UsageError(f"{where}: column {column!r} is empty")
    return row[column]
