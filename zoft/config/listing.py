"""`zoft recipes` and `zoft configs`: what comes with zoft, read from YAML and the recipe book alone."""

import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path

from zoft.config.book.models import MODELS, BookModel
from zoft.config.recipes import Recipe, all_recipes, names_in, packaged_folder, read_recipe
from zoft.config.setup import setup_of
from zoft.config.suggest import did_you_mean
from zoft.errors import UsageError
from zoft.limits import size_in_bytes

FILTERS = ("model", "task", "fits")
WORLDS = ("quickstart", "arithmetic")  # models that are made on this machine
SMALL = 1e9  # bytes that these and the laboratory stay under
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def recipes(argv: Sequence[str]) -> int:
    """Prints recipes: model and task, what each needs, what it should reach.

    Without arguments those that have a file of their own. With a name, that one and its settings. `--model`, `--task` (a
    part of the name each) and `--fits 24GB` choose among these and the recipe book.
    """
    columns = min(shutil.get_terminal_size((100, 24)).columns, 120)
    if len(argv) == 1 and not argv[0].startswith("-"):
        recipe = read_recipe(argv[0])
        lines = [f"  {key}: {value}" for key, value in sorted(recipe.settings().items())]
        print("\n".join([described(recipe, columns), *lines]))
        return 0
    wanted = _filters(argv)
    chosen = [recipe for recipe in all_recipes(book=bool(wanted)) if _matches(recipe, wanted)]
    if not chosen:
        raise UsageError(f"no recipe matches {' '.join(argv)}; models of the book: {', '.join(MODELS)}")
    print("\n\n".join(described(recipe, columns) for recipe in chosen))
    if not wanted:
        print("\nmore, from the recipe book: zoft recipes --model NAME, --task NAME, --fits 24GB")
    print("\nrun one with: accelerate launch -m zoft.finetune recipe=NAME")
    return 0


def _filters(argv: Sequence[str]) -> dict[str, str]:
    """`--model X`, `--model=X` or `model=X`, each at most once."""
    words = [part for word in argv for part in (word.split("=", 1) if "=" in word else [word])]
    found: dict[str, str] = {}
    for name, value in zip(words[::2], [*words[1::2], ""], strict=False):
        key = name.lstrip("-")
        if key not in FILTERS or not value:
            raise UsageError(
                f"zoft recipes cannot read {' '.join(argv)!r}: give a recipe's name, or --model NAME, --task NAME, --fits 24GB"
            )
        found[key] = value.lower()
    if "fits" in found:
        size_in_bytes("--fits", found["fits"])
    return found


def _matches(recipe: Recipe, wanted: dict[str, str]) -> bool:
    settings = recipe.settings()
    model = _joined(wanted.get("model", ""))
    if model not in _joined(str(settings.get("model", ""))) and not _joined(recipe.name).startswith(model):
        return False
    if wanted.get("task", "") not in str(settings.get("task", "")).lower():
        return False
    needed = step_bytes(recipe)
    return "fits" not in wanted or (needed is not None and needed <= size_in_bytes("--fits", wanted["fits"]))


def _joined(name: str) -> str:
    """In small letters and without what separates words, so that llama3 and "Llama 3" are parts of Meta-Llama-3-8B.

    >>> _joined("Meta-Llama-3-8B"), _joined("opt-1.3b")
    ('metallama38b', 'opt1.3b')
    """
    return name.lower().translate(str.maketrans("", "", "-_ "))


def _model_of(recipe: Recipe) -> BookModel | None:
    hub = recipe.settings().get("model")
    return next((model for model in MODELS.values() if model.hub == hub), None)


def step_bytes(recipe: Recipe) -> float | None:
    """Peak bytes of a step as the book computes them; None: not known."""
    settings, model = recipe.settings(), _model_of(recipe)
    if model is None:
        return SMALL if settings.get("task") == "eos" or settings.get("model") in WORLDS else None
    return model.step_memory(setup_of(settings)).total


def download_of(recipe: Recipe) -> str:
    """What a run of this recipe fetches from the Hub; empty: nothing."""
    settings = recipe.settings()
    return "" if settings.get("task") == "eos" else to_download(settings.get("model"))


def to_download(name: str | None) -> str:
    """What loading the model `name` fetches from the Hub; empty: it is on this machine, or none of the Hub's."""
    if name is None or name in WORLDS or Path(name).expanduser().is_dir():
        return ""
    from huggingface_hub import try_to_load_from_cache

    try:
        if any(isinstance(try_to_load_from_cache(name, file), str) for file in WEIGHTS):
            return ""
    except ValueError:  # no name that the Hub could know
        return ""
    model = next((model for model in MODELS.values() if model.hub == name), None)
    if model is None:
        return f"{name}, once"
    stored = 4 if model.parameters < 1e9 else 2  # bytes a weight, as the files on the Hub hold it
    return f"{name}, about {model.parameters * stored / 1e9:.1f} GB of weights, once"


def described(recipe: Recipe, columns: int = 100) -> str:
    """The lines of one recipe in `zoft recipes`."""
    settings = recipe.settings()
    task = settings.get("task") or "your own data"
    rows = [(recipe.name, f"{settings.get('model') or 'model=… to be named'} on {task}")]
    notes = recipe.notes
    rows += [
        ("  needs", notes.needs),
        ("  reaches", notes.expect),
        ("  source", notes.source),
        ("  downloads", download_of(recipe)),
    ]
    return "\n".join(_row(head, text, columns) for head, text in rows if text)


def _row(head: str, text: str, columns: int) -> str:
    return textwrap.fill(text, columns, initial_indent=f"{head:<21} ", subsequent_indent=" " * 22)


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
