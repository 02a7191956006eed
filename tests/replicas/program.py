"""Run by test_replicas.py: trains with every way of sharing the work, and spoils it in every way.

Leaves a JSON file for each rank, and for a process alone: fingerprints, bytes counted, and what was said of what went wrong.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

import zoft.distributed as wire
from zoft.agreement import Agreement, require_same_settings
from zoft.optimizer import ZOOptimizer
from zoft.stability import govern
from zoft.trainer.settings import ZOSettings

MICRO = 2  # micro-batches a rank and step
STEPS = 4
DIRECTIONS = 12  # divisible by 1, 2, 3 and 4
COLLECTIVES = (
    "all_gather",
    "all_reduce",
    "broadcast",
    "all_gather_into_tensor",
    "reduce",
    "scatter",
    "gather",
    "send",
    "isend",
)


class Counter:
    """Bytes of the tensors that are handed to torch's collectives, whoever calls them."""

    def __init__(self) -> None:
        self.sent = 0
        for name in COLLECTIVES:
            setattr(dist, name, self._counted(getattr(dist, name), 1 if name.startswith("all_gather") else 0))

    def _counted(self, collective, position: int):
        def counted(*args, **kwargs):
            self.sent += args[position].nbytes
            return collective(*args, **kwargs)

        return counted


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.LayerNorm(9), nn.Linear(9, 1))


def micro_batch(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(100 + number))
    return x, x.sin().sum(1)


def optimizer(groups: int, seed: int = 0) -> ZOOptimizer:
    settings = ZOSettings(stability_every=2, stability_probes=1, zo_directions=DIRECTIONS)
    zo = ZOOptimizer(model(), lr=3.0, seed=seed, directions=DIRECTIONS, weight_decay=0.1, direction_groups=groups)
    govern(zo, settings)  # the rate is far too large, so that the monitor's cap decides every step
    return zo


def train(groups: int, shards: int, micro: int, counter: Counter | None) -> dict:
    """`shards` ranks a group with `micro` micro-batches each; alone, shards=1."""
    zo, sent = optimizer(groups), []
    shard = wire.rank() // groups
    for step in range(STEPS):
        before = counter.sent if counter else 0
        for m in range(micro):
            x, y = micro_batch((step * micro + m) * shards + shard)
            zo.accumulate(lambda x=x, y=y: (zo.model(x).squeeze(1) - y).square())
        zo.step()
        sent.append((counter.sent if counter else 0) - before)
    return {"print": zo.space.fingerprint(), "lr": zo.last.lr, "loss": zo.last.estimate.loss, "sent": sent}


def message(broken) -> str:
    try:
        broken()
    except (ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was noticed"


def spoiled(rank: int, last: int) -> dict[str, str]:
    """What is said when rank `last` has other weights, another seed, another recipe; or the work cannot be shared out."""

    def steps(zo: ZOOptimizer, spoil: bool) -> None:
        zo.observers.append(Agreement(zo.space, every=2))
        x, y = micro_batch(0)
        for step in range(4):
            if spoil and step == 2:
                zo.space.slots[0].weight.detach().view(torch.int32)[0, 0] ^= 1 << 20
            zo.step(lambda: (zo.model(x).squeeze(1) - y).square().mean())

    return {
        "weights": message(lambda: steps(optimizer(1), spoil=rank == last)),
        "seed": message(lambda: steps(optimizer(1, seed=7 if rank == last else 0), spoil=False)),
        "recipe": message(lambda: require_same_settings({"a": 1, "zo_eps": 0.5 if rank == last else 0.25})),
        "names": message(lambda: require_same_settings({"a": 1} | ({"b": 2} if rank == last else {}))),
        "world": message(lambda: optimizer(5)),
    }


def vanish(how: str, rank: int) -> dict[str, str]:
    """Rank 1 dies, or hangs; what the others say."""
    wire.set_timeout(2.0)
    wire.ROLL_CALL = 3.0
    wire.gather([1.0])
    if rank == 1:
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(8)
        os._exit(1)
    return {"said": message(lambda: wire.gather([1.0]))}


def child(rank: int, world: int, port: int, how: str, file: Path) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world), "RANK": str(rank)}
    dist.init_process_group("gloo")
    if how == "share":
        counter = Counter()
        wire.gather([0.0])  # the ranks' names are exchanged once
        groups = [g for g in (1, 2, 3, 4) if world % g == 0]
        result = {str(g): train(g, world // g, MICRO, counter) for g in groups} | {"spoiled": spoiled(rank, world - 1)}
    else:
        result = vanish(how, rank)
    file.write_text(json.dumps(result))
    os._exit(0)  # without waiting for a rank that is gone


def ranks(folder: Path, how: str, world: int) -> None:
    """Forks, so that torch is imported and numba compiles only once; neither has started a thread."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    files = [folder / f"{how}-{world}-{rank}.json" for rank in range(world)]
    processes = [context.Process(target=child, args=(rank, world, port, how, files[rank])) for rank in range(world)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


def main(name: str) -> None:
    torch.set_num_threads(1)
    folder = Path(name)
    # One process sees what W ranks see.
    alone = {str(shards): train(1, 1, MICRO * shards, None) for shards in (1, 2, 3, 4)}
    (folder / "alone.json").write_text(json.dumps(alone))
    for world in (2, 3, 4):
        ranks(folder, "share", world)
    for how in ("kill", "hang"):
        ranks(folder, how, 3)


if __name__ == "__main__":
    main(*sys.argv[1:])
