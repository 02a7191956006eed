"""The benchmark measures what it says it does, on a model small enough for a test."""

import csv

import pytest
import torch

from zoft.bench import main, rows
from zoft.bench.contestants import MODES, PLAIN, Batch, Contestants
from zoft.bench.ops import run as run_ops
from zoft.bench.shapes import SHAPES, random_model
from zoft.bench.timing import Sample, interleave, ratio
from zoft.errors import UsageError


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(SHAPES, "tiny", type(SHAPES["opt-125m"])("opt", 32, 2, 2, 64, 100))
    return "tiny"


def test_every_contestant_once_a_round_each_round_begun_by_another() -> None:
    order: list[str] = []
    samples = interleave({name: lambda name=name: order.append(name) for name in "abc"}, rounds=3, warm=1)
    assert "".join(order) == "cab" + "abc" + "bca" + "cab"
    assert all(len(taken) == 3 for taken in samples.values())


def test_ratios_are_taken_round_by_round() -> None:
    samples = {"a": [Sample(2.0, 4.0), Sample(6.0, 4.0), Sample(4.0, 4.0)], "b": [Sample(1.0, 1.0)] * 3}
    assert ratio(samples, "a", "b").median == 4.0 and ratio(samples, "b", "a", "cpu").median == 0.25


@pytest.mark.parametrize("name", ["forwards", "mezo", "mezo_harness", *MODES, "in_place_passes", "read_only_label"])
def test_contestants_run_and_leave_the_model_nearly_as_it_was(tiny: str, name: str) -> None:
    model = random_model(tiny, torch.float32)
    before = model.lm_head.weight.detach().clone()
    contestants = Contestants(model, Batch.random(model, 2, 8))
    contestants.get(name)()
    assert float((model.lm_head.weight.detach() - before).abs().max()) < 1e-4
    splits = contestants.splits.get(name)
    if name == "read_only":
        assert splits and splits[0].panels > 0 and splits[0].sweeps > 0 and splits[0].rest > 0
    if name == "in_place_passes":
        assert splits and splits[0].panels == 0 and splits[0].sweeps > 0


def test_the_label_forward_is_the_harness_loss(tiny: str) -> None:
    """Logits at the last prompt position against one sequence per candidate, log softmax over everything."""
    model = random_model(tiny, torch.float32)
    batch = Batch.random(model, 3, 8)
    longer = Batch(torch.cat([batch.ids, batch.ids[:, :1]], dim=1))  # the harness puts the candidate last
    with torch.no_grad():
        assert abs(float(batch.label(model).mean()) - float(longer.harness(model))) < 1e-5


def test_unknown_contestants_are_named() -> None:
    with pytest.raises(UsageError, match="'sprint' does not exist; there are: " + ", ".join(PLAIN)):
        Contestants(torch.nn.Linear(1, 1), Batch(torch.zeros(1, 1))).get("sprint")


def test_the_command_prints_a_table_and_appends_rows(tiny: str, tmp_path, capsys) -> None:
    file = tmp_path / "step.csv"
    arguments = [
        "--shape",
        tiny,
        "--batch",
        "2",
        "--length",
        "8",
        "--rounds",
        "2",
        "--csv",
        str(file),
        "--device",
        "cpu",
    ]
    for only in ("forwards,mezo,in_place", "forwards,read_only"):
        assert main([*arguments, "--only", only]) == 0
    assert "/ its forwards" in capsys.readouterr().out
    with open(file, newline="") as lines:
        table = list(csv.DictReader(lines))
    assert [row["contestant"] for row in table] == ["forwards", "mezo", "in_place", "forwards", "read_only"]
    assert float(table[2]["to_forwards_wall"]) > 0 and table[0]["to_forwards_wall"] == ""
    assert all(row["torch"] and row["device"] and row["rounds"] == "2" for row in table)
    with pytest.raises(UsageError, match="has the columns"):
        rows.append(file, [{"other": 1}])


def test_ops_against_the_limit() -> None:
    table = run_ops(torch.bfloat16, shape=(256, 64), rounds=2, backend_name="reference", only=["rademacher"])
    assert table[0]["op"] == "limit" and table[0]["to_limit"] == "1.00"
    assert {row["op"] for row in table[1:]} >= {"axpby_ rademacher", "axpby_ rademacher residual16"}
    assert all(float(row["ns_per_element"]) > 0 for row in table)
