"""What `--help` prints behind a command: the words that are its own, how settings are written, and which there are."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence

from zoft.config.evaluation import EvaluationSettings
from zoft.config.fields import Field, fields_of
from zoft.config.helps import helps_of
from zoft.config.own_words import OWN
from zoft.config.run import RunSettings
from zoft.stability.lab.settings import LabSettings
from zoft.stability.settings import StabilitySettings
from zoft.trainer.mezo_settings import written
from zoft.trainer.settings import ZOSettings

WIDEST = 32  # of what stands on the left; longer ones have a line to themselves


def asked(argv: Sequence[str]) -> bool:
    """Whether a command's arguments ask for help: `help` as the first of them, or a flag anywhere.

    >>> asked(["help"]), asked(["recipe=quickstart", "--help"]), asked(["recipe=quickstart"]), asked([])
    (True, True, False, False)
    """
    return list(argv[:1]) == ["help"] or "-h" in argv or "--help" in argv


def manual(command: str = "finetune") -> str:
    """The words of one command, how a run is written down, and zoft's own settings: what each means, and its default.

    >>> "zo_eps=0.0009765625" in manual() and "zoft evaluate alone" not in manual()
    True
    """
    head = _table(
        [
            (
                "recipe=NAME|PATH key=value …",
                "settings of a recipe (zoft recipes), and changes to it; later values win",
            ),
            ("model=FOLDER-OR-NAME task=NAME key=value …", "without a recipe"),
        ]
    )
    known = _filled(
        "Training settings have Transformers' names (learning_rate, max_steps, per_device_train_batch_size, output_dir, …). "
        "A misspelt one is an error that says what was meant. zoft's own, with their defaults:"
    )
    parts = [
        f"{title}\n{_table((f'{name}={default}', f'{meaning} [{kinds}]') for name, default, meaning, kinds in settings)}"
        for title, settings in groups_of(command).items()
    ]
    return "\n\n".join([*filter(None, [own_words(command)]), head, known, *parts])


def own_words(command: str) -> str:
    """What a command takes beside settings; empty: nothing."""
    words = OWN.get(command)
    return "" if words is None else f"zoft {command} alone\n{_table([(w.written, w.help) for w in words.values()])}"


def groups_of(command: str) -> dict[str, list[tuple[str, str, str, str]]]:
    """zoft's own settings that a command takes, by what they are about: name, default, meaning, and what it may be."""
    stability = fields_of(StabilitySettings)
    step = {name: field for name, field in fields_of(ZOSettings).items() if name not in stability}
    groups: dict[str, tuple[type, Mapping[str, Field]]] = {
        "zoft evaluate alone": (EvaluationSettings, fields_of(EvaluationSettings)),
        "the run": (RunSettings, fields_of(RunSettings)),
        "the step": (ZOSettings, step),
        "what keeps it in bounds": (StabilitySettings, stability),
        "the laboratory (task=eos)": (LabSettings, fields_of(LabSettings)),
    }
    for title, owner in (("zoft evaluate alone", "evaluate"), ("the laboratory (task=eos)", "finetune")):
        if command != owner:
            del groups[title]
    return {title: _settings(owner, fields) for title, (owner, fields) in groups.items()}


def _settings(owner: type, fields: Mapping[str, Field]) -> list[tuple[str, str, str, str]]:
    helps = helps_of(owner)
    defaults = {name: "none" if field.default is None else written(field.default) for name, field in fields.items()}
    return [
        (name, defaults[name], re.sub(r"\bNone\b", "none", helps.get(name, "")), field.describe())
        for name, field in fields.items()
    ]


def _columns() -> int:
    return max(60, min(shutil.get_terminal_size((100, 24)).columns, 120))


def _filled(text: str) -> str:
    return textwrap.fill(text, _columns())


def _table(rows: Iterable[tuple[str, str]]) -> str:
    """Two columns, the second of them wrapped to the terminal."""
    rows = list(rows)
    width = min(WIDEST, max(len(left) for left, _ in rows))
    indent = " " * (width + 4)
    lines = []
    for left, right in rows:
        first, *more = textwrap.wrap(right, _columns() - len(indent), break_long_words=False, break_on_hyphens=False)
        lines += [f"  {left:<{width}}  {first}"] if len(left) <= width else [f"  {left}", f"{indent}{first}"]
        lines += [indent + line for line in more]
    return "\n".join(lines)
