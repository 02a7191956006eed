"""Two processes that hold parts of every weight as Transformers cuts them, in ZOTrainer: trained, saved, resumed, replayed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from tests.replicas.conftest import run_program
from zoft.config.run import RunSettings
from zoft.errors import UsageError
from zoft.models import load_model
from zoft.shards import check_tied


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the program left."""
    folder = tmp_path_factory.mktemp("transformers")
    done = run_program("transformers_program.py", folder)
    assert (folder / "tp" / "alone.json").exists(), done.stderr[-4000:]
    return folder


def of(folder: Path, case: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    alone, *ranks = (json.loads((folder / case / f"{name}.json").read_text()) for name in ("alone", "rank0", "rank1"))
    return alone, ranks


@pytest.mark.parametrize("case", ["fsdp", "tied"])
def test_fsdp_ends_as_one_process(folder: Path, case: str) -> None:
    """Bit for bit: weights, losses, evaluations, also when resumed from scalars and log; the saved model is whole."""
    alone, ranks = of(folder, case)
    for rank in ranks:
        for run in (rank["whole"], rank["resumed"]):
            assert (run["print"], run["loss"], run["eval"]) == (alone["print"], alone["loss"], alone["eval"])
    assert sum(rank["whole"]["held"] for rank in ranks) == alone["all"]
    assert alone["replayed"] == alone["print"] and alone["saved"]


def test_tensor_parallel_ends_as_one_process_but_for_its_products(folder: Path) -> None:
    """The engine adds up products of halves, which rounds otherwise; resumed, replayed and saved are exact."""
    alone, ranks = of(folder, "tp")
    for rank in ranks:
        assert rank["whole"]["print"] == rank["resumed"]["print"] == alone["replayed"]
        assert rank["whole"]["loss"] == pytest.approx(alone["loss"], rel=1e-4)
        assert rank["whole"]["held"] < 0.7 * alone["all"]
    assert ranks[0]["whole"]["loss"] == ranks[1]["whole"]["loss"] and alone["saved"]


def test_a_tied_weight_that_would_be_kept_twice_is_refused(monkeypatch) -> None:
    """By two groups of FSDP2, of which one is the embedding alone."""
    mesh = type("Mesh", (), {"size": lambda _: 2})()
    weight = type("Weight", (), {"shape": (51, 4), "device_mesh": mesh})
    embedding, head = nn.Embedding(51, 4), nn.Linear(4, 51)
    check_tied("embed.weight", weight, [head, embedding])
    monkeypatch.setattr("zoft.shards.is_cut_itself", lambda module: module is embedding)
    check_tied("embed.weight", weight, [embedding])
    with pytest.raises(UsageError, match="its 51 rows are not a multiple of the 2 processes"):
        check_tied("embed.weight", weight, [head, embedding])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tp_size": 2}, "set one of them"),
        ({"tuning": "lora"}, "with tuning=full or head or last_k or bias only"),
        ({"method": "mezo"}, "with method=zo only"),
        ({"fsdp_size": 0}, "fsdp_size must be at least 1"),
    ],
)
def test_settings_that_a_cut_model_cannot_have(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        RunSettings(**{"task": "sst2", "fsdp_size": 2, **changes})


def test_there_must_be_as_many_processes(folder: Path) -> None:
    with pytest.raises(UsageError, match="cuts the weights among 2 processes, but 1 was started"):
        load_model(str(folder / "tp" / "base"), sharding={"fsdp_size": 2})
