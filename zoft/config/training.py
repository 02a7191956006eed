"""The settings of `transformers.TrainingArguments`, read from its source text: importing it takes 7 to 12 seconds.

The text read is that of the installed version, so a setting that a newer Transformers adds or removes is known here as
soon as it is installed. `tests/config/test_training.py` compares this table with the real dataclass.
"""

import ast
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from zoft.config.fields import Field, field_from_annotation
from zoft.errors import UsageError


def transformers_folder() -> Path:
    """Where Transformers is installed, found without importing it. UsageError when it is not."""
    spec = find_spec("transformers")
    if spec is None or not spec.submodule_search_locations:
        raise UsageError("zoft needs Transformers, which is not installed; install it with: pip install transformers")
    return Path(next(iter(spec.submodule_search_locations)))


@cache
def training_fields() -> dict[str, Field]:
    """Setting name to what it may hold, for every field of the installed `TrainingArguments`."""
    folder = transformers_folder()
    tree = ast.parse((folder / "training_args.py").read_text(encoding="utf-8"))
    enums = {**_enums(ast.parse((folder / "trainer_utils.py").read_text(encoding="utf-8"))), **_enums(tree)}
    owner = next((n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "TrainingArguments"), None)
    if owner is None:
        raise UsageError(f"{folder / 'training_args.py'} defines no TrainingArguments; install transformers>=5.0")
    found: dict[str, Field] = {}
    for node in owner.body:
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
            continue
        annotation = ast.unparse(node.annotation)
        if "ClassVar" not in annotation and _in_constructor(node.value):
            name = node.target.id
            found[name] = field_from_annotation(name, annotation, _default(node.value), enums)
    return found


def _enums(tree: ast.Module) -> dict[str, tuple[str, ...]]:
    """Words of each enumeration defined at the top of a module: the constants its members are set to."""
    found = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and any("Enum" in ast.unparse(base) for base in node.bases):
            assigned = [entry.value for entry in node.body if isinstance(entry, ast.Assign)]
            words = [v.value for v in assigned if isinstance(v, ast.Constant) and isinstance(v.value, str)]
            if words:
                found[node.name] = tuple(words)
    return found


def _keyword(node: ast.expr | None, name: str) -> ast.expr | None:
    """The keyword `name` of a call `field(…)`; None when there is none."""
    if not isinstance(node, ast.Call):
        return None
    return next((keyword.value for keyword in node.keywords if keyword.arg == name), None)


def _in_constructor(node: ast.expr | None) -> bool:
    init = _keyword(node, "init")
    return not (isinstance(init, ast.Constant) and init.value is False)


def _default(node: ast.expr | None) -> object:
    value = _keyword(node, "default") if isinstance(node, ast.Call) else node
    try:
        return ast.literal_eval(value) if value is not None else None
    except ValueError:  # an expression, such as default_factory
        return None
