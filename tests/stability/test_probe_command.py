"""`zoft probe`: a checkpoint's curvature, and the learning rates it allows, as text."""

import re
from types import SimpleNamespace

import pytest
import torch

from zoft.cli import main
from zoft.config import load_config
from zoft.errors import UsageError
from zoft.finetune.probe import measure


@pytest.mark.slow
def test_probe_prints_the_recommended_range(capsys) -> None:
    argv = ["recipe=quickstart", "stability_probes=8", "num_train=64"]
    assert main(["probe", *argv]) == 0
    out = capsys.readouterr().out
    trace = float(re.search(r"trace of the Hessian +([\d.e+-]+)", out)[1])
    assert trace > 0.0 and "recommended" in out and "forward passes" in out
    report = measure(load_config(argv, {}))
    measured, advice = report.measured, report.advice
    assert measured.trace.value == pytest.approx(trace, rel=1e-3)  # seeded: the same again
    assert 0.0 < advice.edge[0] <= advice.edge[1] == pytest.approx(2.0 / measured.trace.lower(1.0))
    assert 0.0 < advice.recommended[0] < advice.recommended[1] <= advice.drift
    assert report.lambda_max[0] <= report.lambda_max[1] <= measured.trace.value
    assert "asked for              0.0003   (safe" in out


@pytest.mark.slow
def test_probe_knows_the_directions_of_the_run() -> None:
    argv = ["recipe=quickstart", "stability_probes=4", "num_train=64"]
    dense = measure(load_config(argv, {}))
    thin = measure(load_config([*argv, "zo_shape=low_rank", "zo_rank=2"], {}))
    assert dense.advice.heavy == 1.0 and thin.advice.heavy == 6.0
    assert thin.advice.descent[1] == pytest.approx(dense.advice.descent[1] / 6.0)
    assert "zo_shape=low_rank" in thin.text() and "stable below the first" in thin.text()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["recipe=quickstart", "zo_estimator=fzoo", "zo_directions=8"], "no closed form says how far such a step goes"),
        (["recipe=eos-gd"], "the laboratory .* measures its own curvature"),
        (["recipe=quickstart", "per_device_train_batch_size=1"], "compares the halves of a batch"),
    ],
)
def test_probe_refuses_what_it_cannot_turn_into_a_learning_rate(changes, words) -> None:
    with pytest.raises(UsageError, match=words):
        measure(load_config(changes, {}))


def test_probe_measures_on_the_device_that_a_run_would_train_on(monkeypatch) -> None:
    class Arrived(Exception):
        pass

    class Model:
        def to(self, device: torch.device) -> None:
            raise Arrived(str(device))

    monkeypatch.setattr("zoft.finetune.materials.gather_materials", lambda run: SimpleNamespace(model=Model()))
    monkeypatch.setattr("accelerate.PartialState", lambda: SimpleNamespace(device=torch.device("cuda", 1)))
    with pytest.raises(Arrived, match="cuda:1"):
        measure(load_config(["recipe=quickstart"], {}))
