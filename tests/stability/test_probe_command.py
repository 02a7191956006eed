"""`zoft probe`: a checkpoint's curvature, and the learning rates it allows, as text."""

import re

import pytest

from zoft.cli import main
from zoft.config import load_config
from zoft.finetune.probe import measure


@pytest.mark.slow
def test_probe_prints_the_recommended_range(capsys) -> None:
    argv = ["recipe=quickstart", "stability_probes=8", "num_train=64"]
    assert main(["probe", *argv]) == 0
    out = capsys.readouterr().out
    trace = float(re.search(r"trace of the Hessian +([\d.e+-]+)", out)[1])
    assert trace > 0.0 and "recommended" in out and "forward passes" in out
    report = measure(load_config(argv, {}))
    assert report.trace == pytest.approx(trace, rel=1e-3)  # seeded: the same again
    assert report.edge == pytest.approx(2.0 / report.trace)
    low, high = report.descent_edge
    assert 0.0 < low <= high and report.lambda_max[0] <= report.lambda_max[1] <= report.trace
