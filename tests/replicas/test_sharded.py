"""Two processes with half of every weight each (FSDP2): one process's weights, also in `state_dict()`, resumed and replayed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.replicas.conftest import run_program


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the program left."""
    folder = tmp_path_factory.mktemp("sharded")
    done = run_program("sharded_program.py", folder)
    assert (folder / "rank1.json").exists(), done.stderr[-4000:]
    return folder


@pytest.mark.parametrize("case", ["float32", "bfloat16"])
def test_shards_end_as_one_process(folder: Path, case: str) -> None:
    """Uneven rows, tied embeddings, a bias of one row; float32, and bfloat16 with residual bits and a momentum buffer."""
    alone, first, second = (json.loads((folder / f"{n}.json").read_text())[case] for n in ("alone", "rank0", "rank1"))
    for rank in (first, second):
        assert {name: rank[name] for name in alone} == alone  # weights, state_dict, learning rate
        assert {rank[name] for name in ("resumed", "replayed", "unsharded")} == {alone["print"]}
    assert first["held"] != second["held"] and first["held"] + second["held"] == alone["elements"]
