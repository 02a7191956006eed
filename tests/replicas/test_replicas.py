"""Processes that share the work of a step: one process's weights, a few bytes on the wire, whoever differs is named."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from tests.replicas.conftest import run_program

MICRO, DIRECTIONS = 2, 12  # as in the program


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the program left."""
    folder = tmp_path_factory.mktemp("replicas")
    done = run_program("program.py", folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture
def alone(folder: Path) -> dict:
    return json.loads((folder / "alone.json").read_text())


@pytest.fixture(params=[2, 3, 4])
def ranks(request: pytest.FixtureRequest, folder: Path) -> list[dict]:
    return [json.loads((folder / f"share-{request.param}-{rank}.json").read_text()) for rank in range(request.param)]


def test_every_way_of_sharing_gives_the_weights_of_one_process(ranks: list[dict], alone: dict) -> None:
    """Batch-parallel (1 group), direction-parallel (as many groups as ranks), and 2 x 2: weights, loss and learning rate."""
    world = len(ranks)
    seen = [groups for groups in ranks[0] if groups.isdigit()]
    assert seen == [str(groups) for groups in (1, 2, 3, 4) if world % groups == 0]
    for groups in seen:
        one = alone[str(world // int(groups))]
        for rank in ranks:
            assert {name: rank[groups][name] for name in ("print", "lr", "loss")} == {
                name: one[name] for name in ("print", "lr", "loss")
            }, f"{groups} groups"
    assert len({one["print"] for one in alone.values()}) == 4 and all(one["lr"] < 3.0 for one in alone.values())


def test_bytes_on_the_wire(ranks: list[dict]) -> None:
    """48 a direction and micro-batch (the whole batch and two halves, at both points), 8 a point of the monitor's readings."""
    for rank in ranks:
        for groups in (name for name in rank if name.isdigit()):
            own = DIRECTIONS // int(groups)
            plain, reading = min(rank[groups]["sent"]), max(rank[groups]["sent"])
            assert plain == MICRO * own * 48
            assert plain < reading <= MICRO * own * 64


def test_whoever_differs_is_named(ranks: list[dict]) -> None:
    last = len(ranks) - 1
    for rank in ranks:
        said = rank["spoiled"]
        assert f"ReplicaError: rank {last} differs in the weights after step 3" in said["weights"]
        assert f"ReplicaError: rank {last} differs in the seed after step 1" in said["seed"]
        assert f"UsageError: rank {last} differs in zo_eps: 0.5, not 0.25" in said["recipe"]
        assert f"UsageError: rank {last} differs in which settings there are" in said["names"]
        assert f"UsageError: zo_direction_groups=5 does not divide the {last + 1} process(es)" in said["world"]


@pytest.mark.parametrize("how", ["kill", "hang"])
def test_an_unreachable_worker_is_named_on_rank_0(how: str, folder: Path) -> None:
    first, last = (json.loads((folder / f"{how}-3-{rank}.json").read_text())["said"] for rank in (0, 2))
    assert "ReplicaError: rank 1 (process " in first and f" on {socket.gethostname()[:20]}" in first
    assert "does not answer, after at most 2 s (ddp_timeout)" in first and "rank 2" not in first
    assert "rank 0 says which" in last
