"""Annotations read as text, and did-you-mean."""

import dataclasses
import enum
import types
import typing

import pytest

from zoft.config.fields import Field, field_from_annotation, fields_of, merged
from zoft.config.run import RunSettings
from zoft.config.suggest import KNOWN_ELSEWHERE, did_you_mean
from zoft.config.training import training_fields
from zoft.trainer.settings import ZOSettings

NONE = type(None)


@pytest.mark.parametrize(
    ("annotation", "kinds"),
    [
        ("float", {float}),
        ("str | None", {str, NONE}),
        ("Optional[int]", {int, NONE}),
        ("typing.Union[str, NoneType, typing.Literal[False]]", set()),  # a name that is not known: anything goes
        ("Union[str, bool, None]", {str, bool, NONE}),
        ("list[str] | str | None", {list, str, NONE}),
        ("dict[str, Any] | str", {dict, str}),
        ("'int | float'", {int, float}),
        ("SomeConfig | None", set()),
    ],
)
def test_kinds_of_an_annotation(annotation, kinds):
    assert field_from_annotation("x", annotation).kinds == kinds


def test_a_mapping_knows_its_values_and_a_list_its_entries():
    assert field_from_annotation("x", "dict[str, str] | None").items == {str}
    assert field_from_annotation("x", "list[int]").items == {int}
    assert field_from_annotation("x", "list[Thing]").items == frozenset()


def test_an_enumeration_gives_its_words():
    field = field_from_annotation("x", "Colour | str", enums={"Colour": ("red", "green")})
    assert field.kinds == {str} and field.choices == ("red", "green")


def test_two_owners_of_one_setting_are_refused():
    with pytest.raises(RuntimeError, match="two owners: a"):
        merged([{"a": Field("a", frozenset())}, {"a": Field("a", frozenset())}])


def test_no_setting_has_two_owners():
    assert merged([fields_of(RunSettings), fields_of(ZOSettings), training_fields()])


def test_every_setting_of_zofts_own_has_a_known_kind():
    for field in [*fields_of(RunSettings).values(), *fields_of(ZOSettings).values()]:
        assert field.kinds, f"{field.name} would take anything"


def test_names_known_elsewhere_lead_to_settings_that_exist():
    known = {*fields_of(RunSettings), *fields_of(ZOSettings), *training_fields()}
    assert set(KNOWN_ELSEWHERE.values()) <= known
    assert not set(KNOWN_ELSEWHERE) & known, "a real setting needs no translation"
    assert did_you_mean("--torch-dtype", known) == "; did you mean dtype?"


def _kinds_of(annotation) -> set[type] | None:
    """The kinds of a real annotation, worked out from its objects instead of its text. None: a kind of its own."""
    if annotation is typing.Any:
        return None
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        parts = [_kinds_of(argument) for argument in typing.get_args(annotation)]
        return None if any(part is None for part in parts) else set().union(*(part for part in parts if part))
    if origin is typing.Literal:
        return {type(value) for value in typing.get_args(annotation)}
    if origin in (list, dict):
        return {origin}
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return {str}
    return {annotation} if annotation in (str, int, float, bool, list, dict, NONE) else None


def test_the_table_is_that_of_the_installed_transformers():
    """Names, kinds, choices and plain defaults, compared with the imported dataclass (this one does take seconds)."""
    from transformers import TrainingArguments
    from transformers.trainer_utils import IntervalStrategy, SchedulerType

    real = {field.name: field for field in dataclasses.fields(TrainingArguments) if field.init}
    table = training_fields()
    assert list(table) == list(real)
    hints = typing.get_type_hints(TrainingArguments)
    for name, field in table.items():
        kinds = _kinds_of(hints[name])
        if name == "debug":  # list[DebugOption]: an enumeration inside a list
            assert field.kinds == {str, list}
            continue
        assert field.kinds == (kinds or set()), name
        if isinstance(real[name].default, (bool, int, float)):
            assert field.default == real[name].default, name
    assert set(table["lr_scheduler_type"].choices) == {member.value for member in SchedulerType}
    assert set(table["eval_strategy"].choices) == {member.value for member in IntervalStrategy}
