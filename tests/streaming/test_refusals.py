"""What cannot be streamed is refused before anything is computed, with a way out."""

from __future__ import annotations

import re
import resource
import signal

import pytest
import torch
from torch import nn

from tests.streaming.conftest import decoder, least
from zoft.config import load_config
from zoft.errors import UsageError
from zoft.optimizer import ZOOptimizer
from zoft.perturb import ReadOnly
from zoft.streaming.plan import _plans, plan
from zoft.streaming.stream import stream, streamed


def test_what_fits_stays() -> None:
    model = decoder()
    plans = list(_plans(model, lambda weight: 0))
    assert [len(p.streamed) for p in plans] == [0, 1, 2, 3, 4, 5]
    assert [p.resident for p in plans[2:]] == sorted((p.resident for p in plans[2:]), reverse=True)
    for wanted in plans[2:]:
        chosen = plan(model, wanted.resident)
        assert len(chosen.streamed) <= len(wanted.streamed) and chosen.resident <= wanted.resident
    assert [block.name for block in plans[2].streamed] == ["model.layers.2", "model.layers.4"], "evenly spread"
    assert stream(model, "1GB") is None and streamed(model) is None


def test_what_training_keeps_beside_the_weights_counts() -> None:
    model = decoder(dtype=torch.bfloat16)
    bare, kept, both = (
        float(least(model, rounding, buffers)[:-2])
        for rounding, buffers in (("nearest", 0), ("residual16", 0), ("residual16", 1))
    )
    copy = max(w.nbytes for w in model.model.layers.parameters()) / 1e6
    assert kept - copy == pytest.approx(2 * (bare - copy), abs=2e-3)  # 2 bytes more beside 2
    assert both - copy == pytest.approx(4 * (bare - copy), abs=2e-3)  # 6 bytes more


def test_what_streams_is_told_in_units_of_its_size() -> None:
    """A small model's megabytes were written as 0.00 GB."""
    model = decoder()
    chosen = stream(model, least(model))
    assert chosen is not None
    words = chosen.words()
    sizes = [float(number) for number in re.findall(r"(\d+\.\d\d) kB", words)]
    assert "5 of 5 blocks" in words and len(sizes) == 3 and all(sizes) and "GB" not in words


def test_a_head_that_is_displaced_whole_counts() -> None:
    """One with a bias is; of a table, and of a head without a bias, rows or panels are."""

    class Headed(nn.Module):
        def __init__(self, bias: bool) -> None:
            super().__init__()
            self.table = nn.Embedding(2000, 8)
            self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
            self.head = nn.Linear(8, 2000, bias=bias)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            x = self.table(ids)
            for block in self.blocks:
                x = block(x)
            return self.head(x)

    for bias, copy in ((True, 2000 * 8 * 4), (False, 8 * 8 * 4)):
        model = Headed(bias)
        first, *_ = _plans(model, lambda weight: 0)
        assert first.resident - first.nbytes == copy
    model = Headed(bias=True)
    optimizer = ZOOptimizer(model, lr=0.0)
    optimizer.step(lambda: model(torch.arange(5)).square().mean())
    assert isinstance(optimizer.perturbation, ReadOnly)
    assert 2000 * 8 * 4 <= optimizer.perturbation._view.scratch_bytes <= 2000 * 9 * 4 + 64


def test_tied_weights_stay() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
            self.head = nn.Linear(4, 4)
            self.head.weight = self.blocks[1].weight

    *_, smallest = _plans(Tied(), lambda weight: 0)
    assert [len(block.weights) for block in smallest.streamed] == [2, 1, 2]


def test_a_budget_that_is_too_small_names_what_is_needed() -> None:
    model = decoder()
    with pytest.raises(
        UsageError, match=r"memory_budget is 1.0000 kB, but LlamaForCausalLM needs \d\d\.\d{4} kB.*5 blocks"
    ):
        stream(model, "0.001MB")
    with pytest.raises(UsageError, match="no list of blocks"):
        stream(nn.Linear(100, 100), "0.001MB")


def test_a_full_disk_is_known_before_anything_is_moved(tmp_path, monkeypatch) -> None:
    model = decoder()
    before = {name: weight.data_ptr() for name, weight in model.named_parameters()}
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limit[1]))  # the system itself refuses to give room
    try:
        with pytest.raises(
            UsageError, match=r"\d kB of weights are to lie in .*, but the system says: File too large; make room"
        ):
            stream(model, least(model), str(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, previous)
    monkeypatch.setattr("zoft.streaming.store._free", lambda where: 4096)
    for place in (str(tmp_path), "memory"):
        with pytest.raises(UsageError, match=r"but 4\.10 kB are free"):
            stream(model, least(model), place)
    assert {name: weight.data_ptr() for name, weight in model.named_parameters()} == before
    assert not list(tmp_path.iterdir()) and streamed(model) is None


def test_models_that_cannot_be_moved(tmp_path) -> None:
    quantised = decoder()
    quantised.model.layers[0].mlp.up_proj.weight = nn.Parameter(torch.zeros(4, dtype=torch.int8), requires_grad=False)
    with pytest.raises(UsageError, match="int8, and quantised weights cannot be streamed"):
        stream(quantised, "1GB")
    with pytest.raises(UsageError, match="has not been loaded"):
        stream(decoder().to("meta"), "1GB")
    with pytest.raises(UsageError, match=r"stream_to: weights cannot be kept in .*name a folder"):
        readonly = tmp_path / "gone"
        readonly.mkdir()
        model = decoder()
        budget = least(model)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tempfile.mkstemp", _refuse)
            stream(model, budget, str(readonly))


def _refuse(*_args, **_kwargs):
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["memory_budget=lots"], "memory_budget must be a number and kB, MB, GB or TB"),
        (["memory_budget=0GB"], "more than nothing"),
        (["stream_to=disk"], "set memory_budget with it"),
        (["memory_budget=1GB", "stream_to=/no/such/folder"], "auto, memory, disk or a folder that exists"),
        (["memory_budget=1GB", "method=adamw"], "method=adamw cannot be had with memory_budget"),
        (["memory_budget=1GB", "method=mezo"], "method=mezo cannot be had with memory_budget"),
        (["memory_budget=1GB", "perturbation=in_place"], "perturbation=in_place cannot be had"),
        (["memory_budget=1GB", "quantization=nf4", "tuning=lora"], "quantization=nf4 cannot be had"),
        (["memory_budget=1GB", "quantization=fp4", "tuning=lora"], "quantization=fp4 cannot be had"),
        (["memory_budget=1GB", "zo_distribution=sphere"], "zo_distribution=sphere cannot be had"),
        (
            ["memory_budget=1GB", "zo_rule=hizoo", "zo_estimator=three_point", "zo_distribution=gaussian"],
            "zo_rule=hizoo cannot",
        ),
        (["memory_budget=1GB", "guard=rewind"], "guard=rewind cannot be had"),
        (["memory_budget=1GB", "torch_compile=true"], "torch_compile=True cannot be had"),
    ],
)
def test_settings_that_do_not_go_together(settings, message) -> None:
    with pytest.raises(UsageError, match=message):
        load_config(["recipe=quickstart", *settings])
