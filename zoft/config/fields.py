"""What a setting may hold, read off the dataclass that owns it without importing anything the dataclass needs."""

import ast
import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

PLAIN = {"str": str, "int": int, "float": float, "bool": bool, "Path": str, "PathLike": str}
LISTS = {"list", "List", "tuple", "Tuple", "Sequence", "Iterable"}
MAPPINGS = {"dict", "Dict", "Mapping", "MutableMapping"}


@dataclass(frozen=True)
class Field:
    """One setting: its name and every kind of value it takes."""

    name: str
    kinds: frozenset[type]  # of str, int, float, bool, list, dict, NoneType; empty: anything goes
    choices: tuple[str, ...] = ()  # the words a str may be; empty: any
    items: frozenset[type] = frozenset()  # kinds of the entries of a list, or of a mapping's values
    default: Any = None

    @property
    def only_text(self) -> bool:
        """True when a value can be nothing but text, so that text from a command line is taken literally."""
        return bool(self.kinds) and self.kinds <= {str, type(None)}

    def describe(self) -> str:
        """The kinds in words.

        >>> Field("warmup_steps", frozenset({float, type(None)})).describe()
        'a number or none'
        """
        words = {bool: "true or false", int: "a whole number", float: "a number", list: "a list", dict: "a mapping"}
        parts = [words[kind] for kind in words if kind in self.kinds and not (kind is int and float in self.kinds)]
        if str in self.kinds:
            parts.insert(0, f"one of {', '.join(self.choices)}" if self.choices else "text")
        if type(None) in self.kinds:
            parts.append("none")
        return " or ".join(parts) or "any value"


def field_from_annotation(
    name: str, annotation: str, default: Any = None, enums: Mapping[str, tuple[str, ...]] | None = None
) -> Field:
    """Reads an annotation as text; a name that is neither plain nor in `enums` makes the setting take anything.

    >>> sorted(kind.__name__ for kind in field_from_annotation("n", "int | None").kinds)
    ['NoneType', 'int']
    >>> field_from_annotation("d", "Literal['float32', 'bfloat16']").choices
    ('float32', 'bfloat16')
    """
    kinds: set[type] = set()
    items: set[type] = set()
    choices: list[str] = []
    unknown = _collect(ast.parse(annotation, mode="eval").body, enums or {}, kinds, items, choices)
    if unknown:
        kinds.clear()
    return Field(name, frozenset(kinds), tuple(choices), frozenset(items), default)


def _collect(node: ast.expr, enums: Mapping[str, tuple[str, ...]], kinds: set, items: set, choices: list) -> bool:
    """Adds what `node` allows to `kinds`, `items` and `choices`; True when it cannot tell."""
    if isinstance(node, ast.BinOp):
        unknown = [_collect(side, enums, kinds, items, choices) for side in (node.left, node.right)]
        return any(unknown)
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):  # an annotation inside quotes
            return _collect(ast.parse(node.value, mode="eval").body, enums, kinds, items, choices)
        kinds.add(type(node.value))
        return False
    base, arguments = (node.value, _elements(node.slice)) if isinstance(node, ast.Subscript) else (node, [])
    word = base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "")
    if word in PLAIN:
        kinds.add(PLAIN[word])
    elif word in enums:
        kinds.add(str)
        choices.extend(enums[word])
    elif word in LISTS or word in MAPPINGS:
        kinds.add(list if word in LISTS else dict)
        arguments = arguments if word in LISTS else arguments[1:]
        inside: set[type] = set()
        for argument in arguments:
            if not isinstance(argument, ast.Constant) and _collect(argument, enums, inside, set(), []):
                inside.clear()
                break
        items |= inside
    elif word == "Literal":
        for argument in arguments:
            value = ast.literal_eval(argument)
            kinds.add(type(value))
            if isinstance(value, str):
                choices.append(value)
    elif word in ("Union", "Optional"):
        if word == "Optional":
            kinds.add(type(None))
        unknown = [_collect(argument, enums, kinds, items, choices) for argument in arguments]
        return any(unknown)
    else:
        return True
    return False


def _elements(node: ast.expr) -> list[ast.expr]:
    return list(node.elts) if isinstance(node, ast.Tuple) else [node]


def fields_of(owner: type) -> dict[str, Field]:
    """The settings of a light dataclass: every field that its constructor takes."""
    found = {}
    for field in dataclasses.fields(owner):
        if field.init:
            annotation = field.type if isinstance(field.type, str) else _spelled(field.type)
            default = field.default if field.default is not dataclasses.MISSING else None
            found[field.name] = field_from_annotation(field.name, annotation, default)
    return found


def _spelled(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)


def merged(tables: Iterable[Mapping[str, Field]]) -> dict[str, Field]:
    """One table of several owners. Two owners of one setting are a mistake of the program, not of its user."""
    result: dict[str, Field] = {}
    for table in tables:
        if twice := sorted(result.keys() & table.keys()):
            raise RuntimeError(f"settings with two owners: {', '.join(twice)}")
        result.update(table)
    return result
