"""Run by test_sharded.py: one process, then two forked ones that hold half of every weight each (FSDP2)."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from zoft.optimizer import ZOOptimizer
from zoft.stability import govern
from zoft.trainer.settings import ZOSettings
from zoft.trajectory import TrajectoryLog, attach, replay

STEPS, SAVE_AT = 4, 2
CASES = {
    "float32": {"dtype": torch.float32, "rule": "sgd", "rule_settings": {}, "weight_rounding": "nearest"},
    "bfloat16": {
        "dtype": torch.bfloat16, "rule": "momentum", "rule_settings": {"buffer": "full"}, "weight_rounding": "residual16",
    },
}  # fmt: skip


class Tied(nn.Module):
    """Odd numbers of rows, one of a single row (a rank holds nothing of it), and a head that is the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 6)) for _ in range(2)])
        self.gate = nn.Linear(6, 1)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        h = self.embed(ids)
        for block in self.blocks:
            h = h + block(h)
        return self.head(self.norm(h * self.gate(h))).float()


def build(dtype: torch.dtype, sharded: bool) -> Tied:
    torch.manual_seed(0)
    model = Tied().to(dtype)
    if sharded:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for block in model.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
    return model


def optimizer(model: Tied, case: dict) -> ZOOptimizer:
    settings = {name: value for name, value in case.items() if name != "dtype"}
    zo = ZOOptimizer(model, lr=1.0, directions=2, weight_decay=0.1, **settings)
    govern(zo, ZOSettings(stability_every=2, stability_probes=1, zo_directions=2))
    return zo


def train(zo: ZOOptimizer, until: int, mine: list[int], shards: int) -> None:
    while zo.steps < until:
        for number in mine:
            generator = torch.Generator().manual_seed(zo.steps * shards + number)
            ids = torch.randint(0, 11, (2, 4), generator=generator)
            zo.accumulate(lambda ids=ids: nn.functional.cross_entropy(zo.model(ids).flatten(0, 1), ids.flatten()))
        zo.step()


def whole(model: nn.Module) -> dict[str, list[float]]:
    """`state_dict()`, gathered."""
    state = model.state_dict()
    return {
        n: (w.full_tensor() if hasattr(w, "full_tensor") else w).double().flatten().tolist() for n, w in state.items()
    }


def outcome(zo: ZOOptimizer) -> dict:
    assert zo.last is not None
    return {"print": zo.space.fingerprint(), "lr": zo.last.lr, "state": whole(zo.model), "elements": zo.space.elements}


def shard(rank: int, port: int, folder: Path) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "RANK": str(rank)}
    dist.init_process_group("gloo")
    found = {}
    for name, case in CASES.items():
        zo, log = optimizer(build(case["dtype"], True), case), folder / f"{name}-{rank}.zoft"
        recorder = attach(zo, log)
        held = sum(slot.weight.numel() for slot in zo.space.slots)
        train(zo, SAVE_AT, [rank], 2)
        weights = {n: w.to_local().clone() for n, w in zo.model.state_dict().items()}
        torch.save({"weights": weights, "optimizer": zo.state_dict()}, folder / f"{name}-{rank}.pt")
        train(zo, STEPS, [rank], 2)
        recorder.close()

        saved = torch.load(folder / f"{name}-{rank}.pt", weights_only=True)
        resumed = build(case["dtype"], True)
        for n, weight in resumed.state_dict().items():
            weight.to_local().copy_(saved["weights"][n])
        again = optimizer(resumed, case)
        again.load_state_dict(saved["optimizer"])
        train(again, STEPS, [rank], 2)

        replayed = replay(build(case["dtype"], True), TrajectoryLog.read(log))
        prints = {"resumed": again.space.fingerprint(), "replayed": replayed.space.fingerprint()}
        base = replay(build(case["dtype"], False), TrajectoryLog.read(log))  # a log of shards, on a whole model
        found[name] = {**outcome(zo), **prints, "unsharded": base.space.fingerprint(), "held": held}
    (folder / f"rank{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def main(name: str) -> None:
    torch.set_num_threads(1)
    folder, alone = Path(name), {}
    for case in CASES:
        zo = optimizer(build(CASES[case]["dtype"], False), CASES[case])
        train(zo, STEPS, [0, 1], 2)
        alone[case] = outcome(zo)
    (folder / "alone.json").write_text(json.dumps(alone))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [multiprocessing.get_context("fork").Process(target=shard, args=(r, port, folder)) for r in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(120)
        rank.kill()


if __name__ == "__main__":
    main(*sys.argv[1:])
