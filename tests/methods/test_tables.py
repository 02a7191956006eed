"""`zoft methods` and docs/methods.md say the same, and what they say is so."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch

from tests.trajectory.runs import Tiny, make, train
from zoft import cli
from zoft.directions import DirectionSource, LowRank
from zoft.directions.form import NAMES as FORMS
from zoft.estimators import ESTIMATORS, estimator
from zoft.methods import ESTIMATOR_ROWS, RULE_ROWS, SHAPE_ROWS, tables
from zoft.perturb import in_place_path
from zoft.rules import RULES
from zoft.trainer.settings import ZOSettings

DOCS = Path(__file__).parents[2] / "docs" / "methods.md"


def test_the_documentation_holds_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["methods"]) == 0
    printed = capsys.readouterr().out
    assert printed == tables() + "\n" and all(table in DOCS.read_text() for table in tables().split("\n\n"))
    assert cli.main(["methods", "mezo"]) == 2


def test_every_method_has_a_row_and_a_setting() -> None:
    hints = get_type_hints(ZOSettings)
    assert list(ESTIMATOR_ROWS) == list(ESTIMATORS) == list(get_args(hints["zo_estimator"]))
    assert list(SHAPE_ROWS) == ["dense", *FORMS] == list(get_args(hints["zo_shape"]))
    assert list(RULE_ROWS) == list(RULES) == list(get_args(hints["zo_rule"]))


@pytest.mark.parametrize("q", [3, 8])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_forwards_and_sweeps_are_the_tables(name: str, q: int) -> None:
    population = estimator(name, eps=0.5).population(DirectionSource(0).at(0, q))
    row = ESTIMATOR_ROWS[name]
    assert len(population) == eval(row.forwards.replace("2q", "2*q"), {"q": q})
    in_place = row.sweeps.split(" / ")[1]
    writes = sum(bool(move.terms) for move in in_place_path(population))  # the last one together with the update
    assert writes == eval(in_place.replace("2q", "2*q"), {"q": q})


@pytest.mark.parametrize("buffer", ["window", "full"])
@pytest.mark.parametrize("name", RULES)
def test_bytes_and_draws_are_the_tables(name: str, buffer: str) -> None:
    """Measured after 50 steps: tensors beside the weights, and directions in one update."""
    if buffer == "full" and "full" not in RULE_ROWS[name].extra:
        pytest.skip("no buffer to be had")
    q, own = (
        (2 if name in ("full_adam", "adamezo") else 1),
        {"buffer": buffer} if "full" in RULE_ROWS[name].extra else {},
    )
    needs: dict[str, dict[str, Any]] = {
        "hizoo": {"estimator": "three_point", "distribution": "gaussian"},
        "muon": {"form": LowRank("low_rank", 2, 50)},
    }
    optimizer = make(Tiny(), rule=name, rule_settings=own, directions=q, **needs.get(name, {}))
    moves = []
    move_ = optimizer.space.move_
    optimizer.space.move_ = lambda given: (moves.extend(given), move_(given))[1]  # type: ignore[method-assign]
    train(optimizer, 50)
    kept = sum(m.numel() * m.element_size() for m in optimizer.space.momenta.values())
    stated = RULE_ROWS[name].extra.split("; full: ")[-1 if buffer == "full" else 0]
    assert kept == int(stated) * optimizer.space.elements
    assert not any(isinstance(value, torch.Tensor) for value in optimizer.rule_state.values())
    draws = RULE_ROWS[name].draws.split(" (")[0].split(", thin")[0].split("; full: ")[-1 if buffer == "full" else 0]
    assert len(moves[-1].terms) == eval(draws.replace("44q", "44*q"), {"q": q})
