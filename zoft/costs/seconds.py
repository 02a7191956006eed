"""Seconds of a step: its forwards and its passes over the weights, each at the ceilings of a device."""

from __future__ import annotations

from dataclasses import dataclass

from zoft.costs.devices import Device
from zoft.costs.memory import STORED, Setup, displaced, stored_bytes, trained
from zoft.costs.sizes import Sizes

SWEEPS = 3  # of a step in place: +, -, and the way back with the update
SWEEP = 1 / 3  # Python for a tensor in a sweep, as a share of that for a displaced one


@dataclass(frozen=True)
class Seconds:
    """Of one step on one device."""

    forwards: float
    passes: float  # perturbations and the update
    python: float  # what Python and launches add: all of theirs on a CPU, on a GPU what outlasts the work
    waiting: float = 0.0  # for weights that come from elsewhere, beyond what the forwards hide

    @property
    def total(self) -> float:
        return self.forwards + self.passes + self.python + self.waiting

    @property
    def mostly(self) -> str:
        """What takes the most of it."""
        parts = {"forwards": self.forwards, "perturbing": self.passes, "Python": self.python, "transfers": self.waiting}
        return max(parts, key=lambda name: parts[name])


def forward_flops(sizes: Sizes, setup: Setup) -> float:
    """2 for each weight of a matrix and token; attention's own two products; the head's where all logits are wanted."""
    positions = setup.rows * setup.tokens
    products = sizes.matrices + (sizes.head if setup.all_logits else 0.0)
    return 2.0 * positions * products + 4.0 * positions * setup.tokens * sizes.attention * sizes.layers


def forward_bytes(sizes: Sizes, setup: Setup) -> float:
    """Bytes that a forward moves beside its weights: results of matrix products and of what is done elementwise to them."""
    positions = setup.rows * setup.tokens
    a_block = 16 * sizes.hidden + (6 if sizes.gated else 4) * sizes.inner
    return positions * sizes.layers * a_block * setup.itemsize


def forward_seconds(sizes: Sizes, setup: Setup, device: Device) -> float:
    """Products, or reading the weights where that takes longer; then what is written and read between them."""
    products = forward_flops(sizes, setup) / device.flops[setup.dtype]
    moved = forward_bytes(sizes, setup)
    if setup.quantization != "none":  # each matrix is written in the compute type before it is read
        moved += sizes.matrices * (STORED[setup.quantization] + setup.itemsize)
        read = sizes.parameters * setup.itemsize
    else:
        read = stored_bytes(sizes, setup)
    return max(products, read / device.bandwidth) + moved / device.bandwidth


def step_seconds(
    sizes: Sizes, setup: Setup, device: Device, forwards: float, *, normals: bool = False, streamed: float = 0.0
) -> Seconds:
    """
    Args:
        forwards: of one step, the monitor's own included.
        normals: directions are drawn from a normal distribution.
        streamed: bytes of weights that come from the host's memory once a step, and go back where they are trained.
    """
    work = forwards * forward_seconds(sizes, setup, device)
    draw = device.normals if normals else device.signs
    size = setup.itemsize
    if setup.in_place:  # each sweep reads and writes
        moved = SWEEPS * 2 * size * trained(sizes, setup)
    else:  # a copy for each forward, and the update
        moved = (forwards * displaced(sizes, setup) + trained(sizes, setup)) * 2 * size
    passes = draw * moved / device.bandwidth
    arriving = streamed / device.link
    if setup.shards > 1:
        missing = stored_bytes(sizes, setup) * (setup.shards - 1) / setup.shards
        arriving += forwards * missing / device.peers
    python = device.launch * sizes.layers * forwards + device.displace * perturbed_tensors(sizes, setup, forwards)
    added = max(0.0, python - work - passes) if device.asynchronous else python
    return Seconds(work, passes, added, max(0.0, arriving - work - added))


def perturbed_tensors(sizes: Sizes, setup: Setup, forwards: float) -> float:
    """How often a step makes, or writes, a tensor; a sweep's counts as a share."""
    a_block = {"lora": 4, "scales": 6, "prefix": 0, "prompt": 0, "head": 0}.get(setup.tuning, sizes.tensors)
    times = SWEEPS * SWEEP if setup.in_place else forwards + SWEEP
    return times * a_block * (setup.last_k if setup.tuning == "last_k" else sizes.layers)


def blocks_bytes(sizes: Sizes, setup: Setup) -> float:
    """Bytes of all blocks' matrices: what can be streamed."""
    return sizes.matrices * STORED.get(setup.quantization, setup.itemsize)
