"""One value for one setting: what text means, and whether a value is of a kind that the setting takes."""

import math
from typing import Any

from zoft.config.fields import Field
from zoft.config.suggest import did_you_mean
from zoft.errors import UsageError

NONE_WORDS = {"none", "null", "~"}


def from_text(field: Field, text: str) -> Any:
    """The value that `text` on a command line stands for, as `checked` wants it.

    A setting that can only hold text takes it literally, so that templates with braces and names made of digits need
    no quoting; `none` empties a setting that may be empty. Everything else is read as YAML by OmegaConf, for which
    `1e-7` is a number and `[a, b]` a list; a list of whole numbers needs no brackets. Raises UsageError when it is not
    YAML.

    >>> from_text(Field("template", frozenset({str})), "{text} It was{label}")
    '{text} It was{label}'
    >>> from_text(Field("learning_rate", frozenset({float})), "1e-7")
    1e-07
    >>> from_text(Field("seeds", frozenset({list, type(None)}), items=frozenset({int})), "0,1,2")
    [0, 1, 2]
    """
    from omegaconf import OmegaConf
    from yaml import YAMLError

    if text.strip().lower() in NONE_WORDS and type(None) in field.kinds and field.default not in NONE_WORDS:
        return None
    if field.only_text:
        return text
    if field.items == {int} and str not in field.kinds and "[" not in text:
        text = f"[{text}]"
    try:
        parsed = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]), resolve=False)
    except (YAMLError, ValueError) as error:
        raise UsageError(f"cannot read {field.name}={text}: expected {field.describe()}") from error
    assert isinstance(parsed, dict)
    return parsed["value"]


def checked(field: Field, value: Any) -> Any:
    """`value` as the type its owner expects, or UsageError that says what was expected and what came.

    A whole number serves as a number, `2e4` as a whole number, and the YAML words `no` and `off` (which YAML reads as
    false) as the choices `no` and `off`. Text is never guessed from a number nor a number from text.

    >>> checked(Field("max_steps", frozenset({int})), 2e4)
    20000
    >>> checked(Field("max_steps", frozenset({int})), "many")
    Traceback (most recent call last):
    ...
    zoft.errors.UsageError: max_steps must be a whole number, but 'many' (text) was given
    """
    kinds = field.kinds
    if not kinds or (value is None and type(None) in kinds):
        return value
    if isinstance(value, bool) and bool not in kinds:
        for word in ("yes", "on") if value else ("no", "off"):
            if word in field.choices:
                return word
    elif isinstance(value, bool) or (isinstance(value, dict) and dict in kinds):
        return value
    elif isinstance(value, (int, float)):
        if float in kinds and math.isfinite(value):
            return float(value)
        if int in kinds and math.isfinite(value) and value == int(value):
            return int(value)
    elif isinstance(value, str) and str in kinds:
        if field.choices and value not in field.choices:
            hint = did_you_mean(value, field.choices)
            raise UsageError(f"{field.name} must be {field.describe()}, but {value!r} was given{hint}")
        return value
    elif isinstance(value, (list, tuple)) and list in kinds:
        return _checked_list(field, value)
    raise UsageError(f"{field.name} must be {field.describe()}, but {_came(value)} was given{_advice(field, value)}")


def _checked_list(field: Field, value: Any) -> list:
    item = Field(field.name, field.items)
    try:
        return [checked(item, entry) for entry in value]
    except UsageError as error:
        raise UsageError(f"{field.name} must be a list whose entries are {item.describe()}; got {value!r}") from error


def _came(value: Any) -> str:
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", dict: "a mapping", list: "a list"}
    return "none" if value is None else f"{value!r} ({names.get(type(value), type(value).__name__)})"


def _advice(field: Field, value: Any) -> str:
    if str in field.kinds and isinstance(value, (bool, int, float)):
        return f'; put quotes around it: {field.name}: "{value}"'
    if isinstance(value, str) and field.kinds & {int, float} and value.replace(",", "").replace(" ", "").isdigit():
        return "; write it without separators or quotes"
    return ""
