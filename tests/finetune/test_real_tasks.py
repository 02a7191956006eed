"""From released file to score, with a real model: an evaluation and one step of every task that the tasks' table runs."""

import importlib.util
import json
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("tasks_table", ROOT / "benchmarks" / "tasks_table.py")
assert spec is not None and spec.loader is not None
table = importlib.util.module_from_spec(spec)
spec.loader.exec_module(table)


@pytest.fixture(scope="module")
def shared():
    folder = Path(os.environ.get("ZOFT_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is absent; set ZOFT_SHARED")
    return folder


@pytest.mark.parametrize("files", table.RUNS, ids=lambda files: files.task)
def test_a_task_runs_from_file_to_score(files, shared, capsys, tmp_path):
    """`zoft evaluate`, and one step of `zoft finetune` that begins with the same numbers."""
    from zoft.cli import main
    from zoft.tasks import TASKS

    model = str(shared / "models" / "tinystories-instruct-chat-3m-gptneo")
    summary = table.run(files, shared / "data", model, 1, "num_test=4", "num_train=16", "stability=off", "guard=off")
    scores = {summary["metric"]: [summary["before"], summary["after"]], **summary["official"]}
    assert tuple(scores) == TASKS[files.task].metrics and summary["steps"] == 1
    assert all(-1 <= score <= 1 for pair in scores.values() for score in pair)
    assert f"{files.task}: 16 training, 0 dev and 4 test examples" in capsys.readouterr().out
    rows = [f"train_file={shared / 'data' / files.train}", "num_train=16", "num_dev=0", "num_test=4"]
    if files.held_out is not None:
        rows.append(f"validation_file={shared / 'data' / files.held_out}")
    numbers = tmp_path / "numbers.json"
    assert main(["evaluate", f"model={model}", f"task={files.task}", *rows, f"output={numbers}"]) == 0
    found = json.loads(numbers.read_text())
    assert {name: found[name] for name in scores} == {name: pair[0] for name, pair in scores.items()} and found[
        "n"
    ] == 4
    assert table.row(files.task, summary).startswith(f"| {files.task} | {summary['metric']} ")
