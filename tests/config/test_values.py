"""What text on a command line means, and which values a setting takes."""

import math

import pytest

from zoft.config.fields import Field
from zoft.config.values import checked, from_text
from zoft.errors import UsageError

NONE = type(None)
NUMBER = Field("learning_rate", frozenset({float}))
COUNT = Field("max_steps", frozenset({int}))
FLAG = Field("overwrite", frozenset({bool}))
TEXT = Field("template", frozenset({str, NONE}))
CHOICE = Field("eval_strategy", frozenset({str}), choices=("no", "steps"))
LIST = Field("lora_target_modules", frozenset({list, str, NONE}), items=frozenset({str}))
MAPPING = Field("label_words", frozenset({dict, NONE}), items=frozenset({str}))
REPORT = Field("report_to", frozenset({str, list, NONE}), items=frozenset({str}), default="none")


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        (NUMBER, "1e-7", 1e-7),
        (NUMBER, "3", 3.0),
        (NUMBER, ".5", 0.5),
        (COUNT, "20000", 20000),
        (COUNT, "2e4", 20000),
        (COUNT, "-1", -1),
        (FLAG, "true", True),
        (FLAG, "False", False),
        (TEXT, "{sentence} It was{label}", "{sentence} It was{label}"),
        (TEXT, "007", "007"),
        (TEXT, "a: b", "a: b"),
        (TEXT, "none", None),
        (TEXT, "a=b", "a=b"),
        (CHOICE, "no", "no"),
        (LIST, "[q_proj, v_proj]", ["q_proj", "v_proj"]),
        (LIST, "all-linear", "all-linear"),
        (LIST, "None", None),
        (MAPPING, "{0: terrible, 1: great}", {0: "terrible", 1: "great"}),
        (REPORT, "none", "none"),
        (REPORT, "[wandb, tensorboard]", ["wandb", "tensorboard"]),
    ],
)
def test_text_becomes_a_value(field, text, value):
    result = checked(field, from_text(field, text))
    assert result == value and type(result) is type(value)


@pytest.mark.parametrize(
    ("field", "value", "part"),
    [
        (NUMBER, "fast", "must be a number, but 'fast' (text)"),
        (NUMBER, True, "must be a number, but True (true or false)"),
        (NUMBER, None, "must be a number, but none"),
        (NUMBER, math.nan, "must be a number, but nan"),
        (NUMBER, math.inf, "must be a number, but inf"),
        (COUNT, 2.5, "must be a whole number, but 2.5"),
        (COUNT, "1,000", "write it without separators"),
        (COUNT, False, "must be a whole number"),
        (FLAG, 1, "must be true or false, but 1"),
        (FLAG, "yes please", "must be true or false"),
        (TEXT, 7, 'put quotes around it: template: "7"'),
        (CHOICE, "step", "one of no, steps, but 'step' was given; did you mean steps?"),
        (LIST, [1, 2], "a list whose entries are text"),
        (MAPPING, ["a"], "must be a mapping or none"),
    ],
)
def test_a_wrong_value_says_what_was_asked_and_what_came(field, value, part):
    with pytest.raises(UsageError) as caught:
        checked(field, value)
    assert str(caught.value).startswith(field.name) and part in str(caught.value)


def test_unreadable_yaml_is_a_usage_error():
    with pytest.raises(UsageError, match="cannot read label_words="):
        from_text(MAPPING, "{0: [}")


def test_yaml_reads_an_unquoted_no_as_false_and_a_choice_gets_it_back():
    assert checked(CHOICE, False) == "no"
    with pytest.raises(UsageError):
        checked(CHOICE, True)  # "yes" is no choice here


def test_a_setting_of_unknown_kind_takes_anything():
    assert checked(Field("x", frozenset()), {"a": 1}) == {"a": 1}
