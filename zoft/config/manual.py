"""What `--help` prints behind a command that takes settings: how they are written, and which there are."""

from __future__ import annotations

from collections.abc import Sequence

from zoft.config.evaluation import EvaluationSettings
from zoft.config.fields import Field, fields_of
from zoft.config.run import RunSettings
from zoft.stability.settings import StabilitySettings
from zoft.trainer.mezo_settings import written
from zoft.trainer.settings import ZOSettings


def asked(argv: Sequence[str]) -> bool:
    """Whether a command's arguments ask for help: `help` as the first of them, or a flag anywhere.

    >>> asked(["help"]), asked(["recipe=quickstart", "--help"]), asked(["recipe=quickstart"]), asked([])
    (True, True, False, False)
    """
    return list(argv[:1]) == ["help"] or "-h" in argv or "--help" in argv


def manual() -> str:
    """How a run is written down, and zoft's own settings with their defaults.

    >>> "zo_eps=0.0009765625" in manual()
    True
    """
    stability = fields_of(StabilitySettings)
    step = {name: field for name, field in fields_of(ZOSettings).items() if name not in stability}
    groups = {
        "the run": fields_of(RunSettings),
        "the step": step,
        "what keeps it in bounds": stability,
        "zoft evaluate alone": fields_of(EvaluationSettings),
    }
    head = (
        "  recipe=NAME|PATH key=value …    settings of a recipe (zoft recipes), and changes to it; later values win\n"
        "  model=FOLDER-OR-NAME task=NAME key=value …    without a recipe\n\n"
        "Training settings have Transformers' names (learning_rate, max_steps, per_device_train_batch_size, output_dir, …).\n"
        "A misspelt one is an error that says what was meant. zoft's own, with their defaults:"
    )
    return "\n".join([head, *(f"\n{title}\n{_lines(fields)}" for title, fields in groups.items())])


def _lines(fields: dict[str, Field]) -> str:
    given = {
        name: f"{name}={'none' if field.default is None else written(field.default)}" for name, field in fields.items()
    }
    width = max(map(len, given.values()))
    return "\n".join(f"  {text:<{width}}  {fields[name].describe()}" for name, text in given.items())
