"""The benchmark measures what it says it does, on a model small enough for a test."""

import csv
import gc
import re
import runpy
import subprocess
import sys
import time
import warnings
import weakref
from pathlib import Path

import pytest
import torch

from zoft.bench import contestants, main, rows, step
from zoft.bench.bars import bars
from zoft.bench.contestants import MODES, PLAIN, Batch, Contestants
from zoft.bench.ops import run as run_ops
from zoft.bench.shapes import random_model, stored_bytes
from zoft.bench.timing import Sample, interleave, once, ratio, repeated
from zoft.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tiny() -> str:
    """A shape small enough for a test."""
    return "tiny"


def test_every_contestant_once_a_round_each_round_begun_by_another() -> None:
    order: list[str] = []
    samples = interleave({name: lambda name=name: order.append(name) for name in "abc"}, rounds=3, warm=1)
    assert "".join(order) == "cab" + "abc" + "bca" + "cab"
    assert all(len(taken) == 3 for taken in samples.values())


def test_runs_behind_one_another_are_timed_as_their_mean() -> None:
    calls: list[int] = []
    work = repeated(lambda: (calls.append(1), time.sleep(0.02)), 4)
    assert 0.02 <= once(work).wall < 0.06 and len(calls) == 4


def test_rounds_fit_the_time_and_are_told() -> None:
    told: list[str] = []
    work = {"nap": lambda: time.sleep(0.05), "nothing": lambda: None}
    samples = interleave(work, rounds=50, seconds=0.4, tell=told.append)
    assert 1 <= len(samples["nap"]) == len(samples["nothing"]) <= 7
    assert len(told) == 1 + len(samples["nap"]) and told[0].startswith("warm-up") and "nap " in told[1]
    assert len(interleave(work, rounds=50, seconds=0.0)["nap"]) == 1  # there is always a figure


def test_the_benchmark_gives_every_cell_its_rows(tiny: str, tmp_path, capsys, monkeypatch) -> None:
    file = tmp_path / "step.csv"
    monkeypatch.setattr(sys, "argv", ["step.py", "--shape", tiny, "--batches", "1x8,2x4", "--rounds", "2", "--csv", str(file),
                                      "--device", "cpu"])  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runpy.run_path(str(ROOT / "benchmarks" / "step.py"), run_name="__main__")
    with open(file, newline="") as lines:
        table = list(csv.DictReader(lines))
    assert len(table) == 4 * 12 and {row["rounds"] for row in table} == {"2"}
    assert len({row["commit"] for row in table}) == 1
    errors = capsys.readouterr().err
    assert errors.count("round 2 of 2") == 4
    found = list(bars([{**row, "batch": "16x64"} for row in table if row["dtype"] == "bfloat16"]))
    assert sum(bar.wanted == 1.08 and bar.at_most for bar in found) == 8
    assert sum(bar.wanted == 100 for bar in found) == 4 and sum(bar.wanted == 7 for bar in found) == 8


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


def test_a_contestant_that_fails_is_left_out_and_told(tiny: str, capsys, monkeypatch) -> None:
    monkeypatch.setattr("zoft.bench.contestants.MeZO", lambda *_, **__: 1 / 0)
    model = random_model(tiny, torch.float32)
    cell = step.run(model, tiny, 1, 4, ["forwards", "mezo", "read_only"], 1, survive=True)
    assert list(cell.samples) == ["forwards", "read_only"]
    assert "FAILS  mezo: ZeroDivisionError" in capsys.readouterr().out


def test_the_one_command_for_a_gpu_runs_dry(tmp_path) -> None:
    """Tests found, kernels and steps timed, rows written: the commands of the real run, tiny and on the CPU."""
    command = [sys.executable, "benchmarks/gpu.py", "--dry-run", "--minutes", "10", "--results", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    with open(tmp_path / "gpu.csv", newline="") as lines:
        kernels = list(csv.DictReader(lines))
    assert {row["dtype"] for row in kernels} == {"bfloat16", "float16", "float32"}
    assert len(kernels) == 5 + 5 + 3 and all(float(row["of_copy"]) > 0 and not row["error"] for row in kernels)
    with open(tmp_path / "step.csv", newline="") as lines:
        steps = list(csv.DictReader(lines))
    assert (
        len(steps) == 8 and "captured" in {row["contestant"] for row in steps} and all(row["peak_MB"] for row in steps)
    )
    assert "axpby_ rademacher, share of the copy bandwidth" in done.stdout and "Broken:\n  nothing" in done.stdout
    assert re.search(r"\[test_axpby\] \d+ tests collected", done.stdout)


def test_a_cell_lets_go_of_its_models_before_the_next(tiny: str, monkeypatch) -> None:
    """Optimizers and views are in cycles: without a collection a GPU would hold the models of two cells."""
    made: list[weakref.ref] = []

    def seen(*args, **kwargs) -> step.Cell:
        assert all(model() is None for model in made)
        cell = run(*args, **kwargs)
        assert cell.contestants._mezo is not None
        made.append(weakref.ref(cell.contestants._mezo.model))
        made.append(weakref.ref(cell.contestants))
        return cell

    run = step.run
    monkeypatch.setattr(step, "run", seen)
    words = [
        "--shape",
        tiny,
        "--dtypes",
        "float32",
        "--batches",
        "1x8,2x4",
        "--only",
        "forwards,mezo,in_place",
        "--csv",
        "",
    ]
    monkeypatch.setattr(sys, "argv", ["step.py", *words, "--rounds", "1", "--device", "cpu"])
    gc.disable()
    try:
        runpy.run_path(str(ROOT / "benchmarks" / "step.py"), run_name="__main__")
    finally:
        gc.enable()
    assert len(made) == 4


def test_the_memory_of_a_captured_step_is_without_the_optimizers(tiny: str, monkeypatch) -> None:
    """What lies beside the weights is there before, as with the other contestants."""
    optimizers: list[object] = []

    class Counted(contestants.ZOOptimizer):
        def __init__(self, *args, backend: str, **kwargs) -> None:
            optimizers.append(self)
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(contestants, "ZOOptimizer", Counted)
    monkeypatch.setattr("zoft.captured.CapturedStep", lambda optimizer, loss, batch: lambda given: optimizer)
    model = random_model(tiny, torch.float32)
    some = Contestants(model, Batch.random(model, 2, 4))
    work = some.get("captured")
    assert some.peak("captured", work)() is work() and len(optimizers) == 1


def test_stored_bytes_are_those_of_the_model() -> None:
    assert stored_bytes("tiny", torch.bfloat16) == 2 * sum(
        w.numel() for w in random_model("tiny", torch.bfloat16).parameters()
    )
