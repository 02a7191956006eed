"""From released file to score, with a real model: one step of every task that the tasks' table runs."""

import importlib.util
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
def test_a_task_runs_from_file_to_score(files, shared, capsys):
    from zoft.tasks import TASKS

    model = str(shared / "models" / "tinystories-instruct-chat-3m-gptneo")
    summary = table.run(files, shared / "data", model, 1, "num_test=4", "num_train=16", "stability=off", "guard=off")
    scores = {summary["metric"]: [summary["before"], summary["after"]], **summary["official"]}
    assert tuple(scores) == TASKS[files.task].metrics and summary["steps"] == 1
    assert all(-1 <= score <= 1 for pair in scores.values() for score in pair)
    assert f"{files.task}: 16 training, 0 dev and 4 test examples" in capsys.readouterr().out
    assert table.row(files.task, summary).startswith(f"| {files.task} | {summary['metric']} ")
