"""Methods by the names that papers gave them: what `zoft compare methods=…` sets for each. Settings can be overridden."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zoft.config.run import FIRST_ORDER
from zoft.methods import ESTIMATOR_ROWS, OF_ESTIMATOR, RAW, RULE_ROWS, WEIGHTS
from zoft.trainer.settings import ZOSettings

NAMED: dict[str, dict[str, object]] = {
    "one-sided": {"zo_estimator": "one_sided", "zo_directions": 3},
    "conservative": {"zo_estimator": "conservative"},
    "fzoo": {"zo_estimator": "fzoo", "zo_directions": 8},
    "es": {"zo_estimator": "es_zscore", "zo_directions": 8},
    "es-rank": {"zo_estimator": "es_rank", "zo_directions": 8},
    "momentum": {"zo_rule": "momentum"},
    "adam": {"zo_rule": "adam"},
    "full-adam": {"zo_rule": "full_adam", "zo_directions": 4},
    "adamezo": {"zo_rule": "adamezo", "zo_directions": 4, "zo_momentum_window": 10},
    "hizoo": {"zo_rule": "hizoo", "zo_estimator": "three_point", "zo_distribution": "gaussian"},
    "muon": {
        "zo_rule": "muon",
        "zo_directions": 4,
        "zo_shape": "low_rank",
        "zo_rank": 4,
        "zo_refresh": 50,
        "zo_momentum_window": 10,
    },
    "sign": {"zo_rule": "sign"},
    "lozo": {"zo_shape": "low_rank", "zo_rank": 2, "zo_refresh": 50},
    "subzero": {"zo_shape": "subspace", "zo_rank": 8, "zo_refresh": 100},
    "lezo": {"zo_blocks": 4, "zo_block_order": "random"},
    "sparse-mezo": {"zo_shape": "small_weights", "zo_sparsity": 0.75},
    "random-mask": {"zo_shape": "random_mask", "zo_sparsity": 0.75},
    "sphere": {"zo_distribution": "sphere"},
    "eggroll": {"zo_estimator": "es_zscore", "zo_directions": 8, "zo_shape": "low_rank", "zo_rank": 1},
}


def settings_of(name: str) -> list[str]:
    """As on a command line.

    >>> settings_of("fzoo"), settings_of("mezo")
    (['method=zo', 'zo_estimator=fzoo', 'zo_directions=8'], ['method=mezo'])
    """
    own = NAMED.get(name)
    return [f"method={name}"] if own is None else ["method=zo", *(f"{key}={value}" for key, value in own.items())]


def unit_of_rate(settings: Mapping[str, Any]) -> str:
    """What the learning rate of a run is counted in: by its method, estimator and rule, whatever it is called.

    >>> unit_of_rate({"zo_rule": "momentum"}), unit_of_rate({"zo_estimator": "fzoo"}), unit_of_rate({"method": "adamw"})
    ('weights^2 / loss', 'weights', 'weights')
    """
    method = settings.get("method", "zo")
    if method in FIRST_ORDER:
        return RAW if settings.get("optim") == "sgd" else WEIGHTS
    if method == "mezo":
        return RAW
    unit = RULE_ROWS[settings.get("zo_rule", ZOSettings.zo_rule)].unit
    if unit != OF_ESTIMATOR:
        return unit
    return ESTIMATOR_ROWS[settings.get("zo_estimator", ZOSettings.zo_estimator)].unit
