"""`zoft recipes` and `zoft configs`: what comes with zoft, read from YAML alone."""

import shutil
import textwrap
from collections.abc import Sequence

from zoft.config.recipes import Recipe, all_recipes, names_in, packaged_folder
from zoft.config.suggest import did_you_mean
from zoft.errors import UsageError


def recipes(argv: Sequence[str]) -> int:
    """Prints every recipe that a bare name reaches: model and task, what it needs, what it should reach."""
    if argv:
        raise UsageError(f"zoft recipes takes no arguments, but {' '.join(argv)} was given")
    columns = min(shutil.get_terminal_size((100, 24)).columns, 120)
    print("\n\n".join(described(recipe, columns) for recipe in all_recipes()))
    print("\nrun one with: accelerate launch -m zoft.finetune recipe=NAME")
    return 0


def described(recipe: Recipe, columns: int = 100) -> str:
    """The lines of one recipe in `zoft recipes`."""
    settings = recipe.settings()
    task = settings.get("task") or "your own data"
    rows = [(recipe.name, f"{settings.get('model') or 'model=… to be named'} on {task}")]
    notes = recipe.notes
    rows += [("  needs", notes.needs), ("  reaches", notes.expect), ("  source", notes.source)]
    return "\n".join(_row(head, text, columns) for head, text in rows if text)


def _row(head: str, text: str, columns: int) -> str:
    return textwrap.fill(text, columns, initial_indent=f"{head:<22}", subsequent_indent=" " * 22)


def configs(argv: Sequence[str]) -> int:
    """Prints the path of one packaged launch file, or lists them all with their first line."""
    folder = packaged_folder("configs")
    known = names_in(folder)
    if not argv:
        for name in known:
            first = (folder / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
            print(f"{name:<12}{first}")
        return 0
    if len(argv) > 1:
        raise UsageError(f"zoft configs takes one name, but {' '.join(argv)} was given")
    name = argv[0].removesuffix(".yaml")
    if name not in known:
        hint = did_you_mean(name, known) or f"; there are {', '.join(known)}"
        raise UsageError(f"unknown launch file {name!r}{hint}")
    print(folder / f"{name}.yaml")
    return 0
