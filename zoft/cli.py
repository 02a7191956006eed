"""The `zoft` command. Each sub-command is one line of `COMMANDS` and imports what it needs when it is called."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module

from zoft import __version__
from zoft.config.console import guarded
from zoft.config.manual import asked, manual, own_words
from zoft.config.suggest import did_you_mean
from zoft.errors import UsageError


@dataclass(frozen=True)
class Command:
    """A sub-command: `module:function` taking the remaining arguments and returning an exit code or None."""

    target: str
    summary: str
    settings: bool = False  # does it take those of a run
    own_help: bool = False  # does it answer --help itself

    def load(self) -> Callable[[Sequence[str]], int | None]:
        module, _, function = self.target.partition(":")
        return getattr(import_module(module), function)


COMMANDS = {
    "finetune": Command("zoft.finetune:main", "fine-tune a model: recipe=NAME|PATH key=value …", settings=True),
    "compare": Command(
        "zoft.finetune.compare:main", "one run a method, and a table: recipe=NAME methods=zo,adamw", settings=True
    ),
    "plan": Command(
        "zoft.plan:main",
        "memory and time of a step, before anything is loaded: plan recipe=NAME memory=24GB",
        settings=True,
    ),
    "evaluate": Command(
        "zoft.finetune.evaluation:main", "score a model on a task: zero-shot, in context, after training", settings=True
    ),
    "probe": Command(
        "zoft.finetune.probe:main", "measure a checkpoint's curvature and the learning rates it allows", settings=True
    ),
    "replay": Command(
        "zoft.trajectory.commands:replay", "rebuild a run's weights from its log: replay BASE LOG OUT", own_help=True
    ),
    "pack": Command(
        "zoft.trajectory.commands:pack", "make a folder to publish of a run's log: pack LOG OUT", own_help=True
    ),
    "merge": Command(
        "zoft.trajectory.commands:merge", "add up runs from one base: merge BASE OUT LOG=SCALE …", own_help=True
    ),
    "bench": Command(
        "zoft.bench:main", "time a step here beside its own forwards and MeZO's: bench --model NAME", own_help=True
    ),
    "methods": Command("zoft.methods:methods", "tables of estimators and rules: forwards, memory, bounds, sources"),
    "recipes": Command("zoft.config.listing:recipes", "list the recipes: what each needs and should reach"),
    "configs": Command("zoft.config.listing:configs", "print the path of a launch file: zoft configs NAME"),
}


def usage() -> str:
    """What `zoft --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  zoft {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "zoft: fine-tuning language models with forward passes only", "", *lines, f"  zoft {'--version':<{width}}", "",
            "More on one of them: zoft COMMAND --help. To begin: zoft finetune recipe=quickstart",
        ]
    )  # fmt: skip


def usage_of(name: str) -> str:
    """What `zoft NAME --help` prints."""
    command = COMMANDS[name]
    more = manual(name) if command.settings else own_words(name)
    return "\n\n".join(filter(None, [f"zoft {name}: {command.summary}", more]))


def dispatch(argv: Sequence[str]) -> int | None:
    """Runs the sub-command named by the first argument. Raises UsageError for an unknown one."""
    if not argv or asked(argv[:1]):
        print(usage())
        return 0
    if argv[0] in ("--version", "-V"):
        print(f"zoft {__version__}")
        return 0
    if argv[0] not in COMMANDS:
        hint = did_you_mean(argv[0], COMMANDS) or f"; there are {', '.join(COMMANDS)}"
        raise UsageError(f"unknown command {argv[0]!r}{hint}")
    command = COMMANDS[argv[0]]
    if asked(argv[1:]) and command.own_help:
        return command.load()(["--help"])
    if asked(argv[1:]):
        print(usage_of(argv[0]))
        return 0
    return command.load()(list(argv[1:]))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script: returns the exit code, 2 for wrong input."""
    return guarded(dispatch, argv)


if __name__ == "__main__":
    sys.exit(main())
