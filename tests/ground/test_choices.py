"""Words in settings are checked wherever the settings are made."""

from dataclasses import dataclass, fields
from typing import Literal, get_args, get_type_hints

import pytest

from zoft.choices import check_choices
from zoft.errors import UsageError
from zoft.trainer import ZOConfig
from zoft.trainer.settings import ZOSettings

WORDS = {
    name: get_args(hint) for name, hint in get_type_hints(ZOSettings).items() if str(hint).startswith("typing.Lit")
}
HIZOO = {"zo_rule": "hizoo", "zo_estimator": "three_point", "zo_distribution": "gaussian"}
NEEDED = {  # words that only some other settings allow
    "fzoo": {"zo_directions": 8},
    "full": {"zo_rule": "momentum"},
    "full_adam": {"zo_directions": 2},
    "adamezo": {"zo_directions": 2},
    "muon": {"zo_shape": "low_rank"},
    "three_point": HIZOO,
    "hizoo": HIZOO,
    "random": {"zo_blocks": 2},
}


def test_every_word_is_accepted_and_no_other() -> None:
    assert {"stability", "guard", "perturbation", "weight_rounding", "zo_distribution"} <= WORDS.keys()
    assert WORDS.keys() <= {field.name for field in fields(ZOSettings)}
    for name, words in WORDS.items():
        for word in words:
            assert getattr(ZOSettings(**{**NEEDED.get(word, {}), name: word}), name) == word
        for wrong in ("nonsense", "", None, False):
            with pytest.raises(UsageError, match=f"{name} must be one of {words[0]}, .*, but {wrong!r} was given"):
                ZOSettings(**{name: wrong})


@pytest.mark.parametrize(
    ("setting", "meant"),
    [({"stability": "capp"}, "cap"), ({"stability": "Off"}, "off"), ({"guard": "rewnd"}, "rewind"),
     ({"perturbation": "inplace"}, "in_place"), ({"weight_rounding": "stoch"}, "stochastic")],
)  # fmt: skip
def test_the_nearest_word_is_named(setting, meant, tmp_path) -> None:
    with pytest.raises(UsageError, match=f"did you mean {meant}"):
        ZOConfig(output_dir=str(tmp_path), use_cpu=True, **setting)


def test_none_where_it_is_allowed() -> None:
    @dataclass
    class Settings:
        word: Literal["a", "b"] | None = None
        number: int | None = None

    check_choices(Settings())
    check_choices(Settings("b"))
    with pytest.raises(UsageError, match="word must be one of a, b, but 'c' was given"):
        check_choices(Settings("c"))  # type: ignore[arg-type]
