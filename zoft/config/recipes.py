"""Finding and reading recipes: one YAML file a run, and `base:` for what it shares with another.

Look-up order of a name: a file's path, then `./recipes`, then the recipes that come with zoft, then the recipe book. The
packaged ones lie in the package when it was installed from a wheel, and beside it in a checkout.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from zoft.config.book import Cell, book_names, cell_of
from zoft.config.run import RecipeNotes
from zoft.config.suggest import did_you_mean
from zoft.errors import UsageError

SUFFIXES = (".yaml", ".yml")


def packaged_folder(name: str) -> Path:
    """Where the packaged `recipes` or `configs` lie: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / name
    return inside if inside.is_dir() else package.parent / name


def names_in(folder: Path) -> list[str]:
    """Names of the YAML files directly in `folder`. Its sub-folders hold what recipes share and are not listed."""
    return sorted(path.stem for path in folder.glob("*") if path.suffix in SUFFIXES and path.is_file())


def recipe_folders() -> tuple[Path, ...]:
    """The folders that a bare name is looked up in, first hit wins."""
    return (Path("recipes"), packaged_folder("recipes"))


@dataclass(frozen=True)
class Layer:
    """One file of a chain of recipes, or the command line: its settings as written, unchecked."""

    source: str  # as shown in errors
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Recipe:
    """A recipe with everything it inherits: `layers` from the farthest base to the recipe itself."""

    name: str
    path: Path | None  # None: of the recipe book
    notes: RecipeNotes
    layers: tuple[Layer, ...]

    def settings(self) -> dict[str, Any]:
        """What all layers together say; the later layer wins."""
        together: dict[str, Any] = {}
        for layer in self.layers:
            together.update(layer.settings)
        return together


def find_recipe(name: str, beside: Path | None = None) -> Path:
    """The file of recipe `name`. `beside` is the folder of the recipe that named it as its base, and is tried first.

    Raises UsageError with the nearest known name when there is none.
    """
    given = Path(name).expanduser()
    folders = ([] if beside is None else [beside]) + [Path()] + list(recipe_folders())
    for folder in folders:
        candidates = [folder / given] if given.suffix in SUFFIXES else [folder / f"{given}{s}" for s in SUFFIXES]
        if folder == Path() and beside is None and given.suffix not in SUFFIXES:
            candidates = [given] if given.is_file() else []  # a path is written with its suffix; a bare name is a name
        for candidate in candidates:
            if candidate.is_file():
                return candidate
    known = sorted({stem for folder in recipe_folders() for stem in names_in(folder)})
    if given.suffix in SUFFIXES or len(given.parts) > 1:
        raise UsageError(f"recipe {name}: no such file; relative paths start at {Path.cwd()}")
    others = f"; there are {', '.join(known)}, and those of `zoft recipes --model NAME`"
    hint = did_you_mean(name, [*known, *book_names()]) or others
    raise UsageError(f"unknown recipe {name!r}{hint}")


def find(name: str, beside: Path | None = None) -> Path | Cell:
    """The file of recipe `name`, or its cell in the recipe book. Arguments and errors as in `find_recipe`."""
    try:
        return find_recipe(name, beside)
    except UsageError:
        cell = cell_of(name)
        if cell is None:
            raise
        return cell


def read_recipe(name: str) -> Recipe:
    """Recipe `name` and all its bases. UsageError: not found, not a mapping, not YAML, or its own ancestor."""
    start = find(name)
    layers: list[Layer] = []
    notes = RecipeNotes()
    seen: list[Path] = []
    current: Path | Cell | None = start
    while current is not None:
        if isinstance(current, Cell):
            if not layers:
                notes = RecipeNotes(**current.notes())
            layers.insert(0, Layer(f"recipe book, {current.name}", current.settings()))
            current = packaged_folder("recipes") / "base/mezo.yaml"
            continue
        if current.resolve() in seen:
            chain = " -> ".join(step.name for step in [*seen, current])
            raise UsageError(f"{current}: a recipe cannot inherit from itself ({chain}); change one base:")
        seen.append(current.resolve())
        settings = read_yaml(current)
        base = settings.pop("base", None)
        own = {field.name: settings.pop(field.name, "") for field in fields(RecipeNotes)}
        if not layers:
            notes = RecipeNotes(**{key: _one_line(current, key, value) for key, value in own.items()})
        layers.insert(0, Layer(shown(current), settings))
        current = None if base is None else _base(current, base)
    if isinstance(start, Cell):
        return Recipe(start.name, None, notes, tuple(layers))
    return Recipe(start.stem, start, notes, tuple(layers))


def _base(of: Path, base: Any) -> Path | Cell:
    if not isinstance(base, str):
        raise UsageError(f"{shown(of)}: base must be the name or path of one recipe, but {base!r} was given")
    try:
        return find(base, beside=of.parent)
    except UsageError as error:
        raise UsageError(f"{shown(of)}: base: {error}") from error


def _one_line(path: Path, key: str, value: Any) -> str:
    if isinstance(value, (dict, list)):
        raise UsageError(f"{shown(path)}: {key} must be text, but {value!r} was given; put it in quotes")
    return " ".join(str(value).split())


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file of `key: value` lines, read by OmegaConf (`1e-7` is a number). UsageError when it is not one."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        loaded = OmegaConf.load(path)
        content = OmegaConf.to_container(loaded, resolve=True)
    except YAMLError as error:
        raise UsageError(f"{shown(path)}: not valid YAML: {' '.join(str(error).split())}") from error
    except OmegaConfBaseException as error:
        raise UsageError(f"{shown(path)}: cannot resolve ${{…}}: {str(error).splitlines()[0]}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{shown(path)}: cannot be read as a recipe: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UsageError(f"{shown(path)}: a recipe is a list of 'setting: value' lines, one setting a line")
    return {str(key): value for key, value in content.items()}


def shown(path: Path) -> str:
    """A path as errors show it: relative to the working folder where it lies below it."""
    try:
        return path.resolve().relative_to(Path.cwd()).as_posix()
    except ValueError:
        return str(path)


def all_recipes(book: bool = False) -> Iterator[Recipe]:
    """Every recipe that a bare name reaches, by name; `./recipes` hides a packaged one of the same name.

    Args:
        book: with those of the recipe book that no file hides, in the order of its table.
    """
    files = sorted({stem for folder in recipe_folders() for stem in names_in(folder)})
    yield from map(read_recipe, files)
    if book:
        yield from (read_recipe(name) for name in book_names() if name not in files)
