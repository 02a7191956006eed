import math
import subprocess
import sys

import pytest

from zoft.errors import UsageError
from zoft.limits import human_bytes
from zoft.report.figure import plot_run, series

HISTORY = [
    {"step": 0, "eval_loss": 0.7, "eval_accuracy": 0.5},
    {"step": 10, "loss": 0.6, "learning_rate": 1e-3},
    {"step": 20, "loss": math.nan},
    {"step": 20, "eval_loss": 0.3, "eval_accuracy": 0.9},
    {"train_runtime": 1.0},
]


def test_series_takes_what_was_logged_under_the_key():
    assert series(HISTORY, "eval_accuracy") == ([0.0, 20.0], [0.5, 0.9])
    assert series(HISTORY, "loss")[0] == [10.0, 20.0]


def test_plot_is_a_png_of_the_promised_size(tmp_path):
    path = plot_run(HISTORY, tmp_path / "run.png", title="a run")
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")
    assert (width, height) == (840, 600)


def test_accuracy_alone_and_loss_alone_can_be_drawn(tmp_path):
    accuracy = plot_run([{"step": 1, "eval_accuracy": 0.5}], tmp_path / "a.png").read_bytes()
    loss = plot_run([{"step": 1, "loss": 0.5}], tmp_path / "b.png").read_bytes()
    assert accuracy != loss


def test_an_empty_history_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(UsageError, match="nothing to draw"):
        plot_run([{"step": 1, "learning_rate": 0.1}], tmp_path / "run.png")
    assert not list(tmp_path.iterdir())


def test_matplotlib_is_imported_only_to_draw():
    code = "import sys, zoft.report.figure, zoft.report.table; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 bytes"), (1000, "1.0 kB"), (999_960, "1.0 MB"), (10**15, "1000.0 TB")]
)
def test_human_bytes(count, text):
    assert human_bytes(count) == text
