"""The ways in which a run could be done, each with its memory and its seconds a step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from zoft.config import RunConfig
from zoft.config.run import FIRST_ORDER
from zoft.config.setup import setup_of, with_residuals
from zoft.costs.devices import Device
from zoft.costs.memory import Memory, Setup, step_memory
from zoft.costs.seconds import Seconds, blocks_bytes, step_seconds
from zoft.costs.sizes import Sizes
from zoft.errors import UsageError

MONITOR = 1.05  # forwards with those of the stability monitor's readings, at most (`zoft.stability.curvature.COST`)
OF_WEIGHTS = ("load_best_model_at_end", "save_only_model")  # settings for which a checkpoint must hold weights
ROOM = 2  # streamed blocks that are on the device: one computes, the next arrives


@dataclass(frozen=True)
class Way:
    """One way."""

    name: str
    settings: str  # what to write for it, beyond what was asked
    memory: Memory
    seconds: Seconds
    devices: int = 1

    @property
    def needed(self) -> float:
        """Bytes on each device."""
        return self.memory.total

    @property
    def words(self) -> list[str]:
        """The run's settings among what is written for it."""
        return [word for word in self.settings.split() if "=" in word]


@dataclass(frozen=True)
class Plan:
    """All of it."""

    config: RunConfig
    sizes: Sizes
    setup: Setup
    device: Device
    limit: float  # bytes of a device
    forwards: float  # of a step
    steps: int | None
    ways: tuple[Way, ...]  # the first is the run as it was asked for

    def fits(self, way: Way) -> bool:
        return way.needed <= self.limit

    def only(self, taken: Callable[[Way], bool]) -> Plan:
        """Without the ways, besides the first, that the run's other settings rule out."""
        return replace(self, ways=(self.ways[0], *filter(taken, self.ways[1:])))

    @classmethod
    def of(
        cls,
        config: RunConfig,
        sizes: Sizes,
        dtype: str,
        device: Device,
        limit: float,
        gpus: int | None,
        tokens: int | None,
    ) -> Plan:
        """
        Args:
            dtype: of the weights.
            limit: bytes of a device.
            gpus: how many there are.
            tokens: of an example.

        Raises:
            UsageError: the run takes gradients.
        """
        if config.run.method in FIRST_ORDER:
            raise UsageError(
                f"zoft plan knows zeroth-order steps, not method={config.run.method}; use method=zo or mezo"
            )
        settings = {**config.settings(), "dtype": dtype}
        setup = setup_of(settings, tokens)
        setup = replace(setup, points=_at_once(config, setup.rows))
        setup = replace(setup, beside=with_residuals(sizes, setup, settings, limit))
        micro_batches = int(settings.get("gradient_accumulation_steps") or 1)
        mezo = config.run.method == "mezo"
        monitored = not mezo and config.zo.stability != "off"
        forwards = micro_batches * _population(config) * (MONITOR if monitored else 1.0)
        steps = int(settings.get("max_steps") or 0) or None
        jit = " zo_panels=jit" if config.zo.zo_panels == "lockstep" else ""
        light = "".join(f" {name}=false" for name in OF_WEIGHTS if settings.get(name))
        normals = mezo or config.zo.zo_distribution == "gaussian"
        make = _Maker(sizes, device, forwards, normals, limit, jit, light, mezo)
        return cls(
            config, sizes, setup, device, limit, forwards, steps, tuple(make.all(setup, gpus or 1, _budget(settings)))
        )


@dataclass(frozen=True)
class _Maker:
    sizes: Sizes
    device: Device
    forwards: float
    normals: bool
    limit: float
    jit: str  # what else to write where weights come and go
    light: str  # what else to write where checkpoints hold no weights
    in_place: bool  # always, whatever is asked for

    def all(self, asked: Setup, gpus: int, budget: float | None) -> list[Way]:
        plain = replace(asked, quantization="none")
        first = self.one("as asked for", "", asked)
        if budget is not None:
            first = self.streamed("as asked for", asked, budget)
        ways = [first]
        if gpus > 1:
            share = replace(asked, rows=math.ceil(asked.rows / gpus))
            ways.append(self.one(f"{gpus} replicas", f"accelerate launch --num_processes {gpus}", share, gpus))
            sharded = replace(share, shards=gpus, points=1, in_place=False)
            if asked.quantization == "none":
                write = (
                    f"accelerate launch --num_processes {gpus} … fsdp_size={gpus} zo_light_checkpoints=true{self.light}"
                )
                write += (" perturbation=read_only" if asked.in_place else "") + self.jit
                ways.append(self.one(f"{gpus} shards (FSDP2)", write, sharded, gpus))
        if asked.dtype == "float32" and asked.quantization == "none":
            write = "dtype=bfloat16" + ("" if self.in_place else " perturbation=read_only")
            ways.append(self.one("16 bits", write, replace(asked, dtype="bfloat16", in_place=self.in_place)))
        if budget is None and asked.quantization == "none":
            read_only = replace(asked, in_place=False, points=1)
            ways.append(self.streamed("streamed", read_only, self._room(read_only)))
        for kind, tuning in (("int8", "lora"), ("nf4", "lora"), ("nf4", "scales")):
            if (asked.quantization, asked.tuning) != (kind, tuning):
                setup = replace(
                    plain, dtype="bfloat16", tuning=tuning, quantization=kind, in_place=self.in_place, beside=0.0
                )
                ways.append(self.one(f"{kind}, {tuning}", f"quantization={kind} tuning={tuning} dtype=bfloat16", setup))
        return ways

    def one(self, name: str, settings: str, setup: Setup, devices: int = 1) -> Way:
        seconds = step_seconds(self.sizes, setup, self._device(setup), self.forwards, normals=self.normals)
        return Way(name, settings, step_memory(self.sizes, setup), seconds, devices)

    def streamed(self, name: str, setup: Setup, budget: float) -> Way:
        """Blocks that do not fit the budget arrive once a step, while others compute, and the room holds two of them."""
        whole = step_memory(self.sizes, setup)
        share = self.sizes.matrices / self.sizes.parameters
        block = (blocks_bytes(self.sizes, setup) + share * whole.beside) / self.sizes.layers
        away = min(self.sizes.layers, math.ceil((whole.total - budget) / block) + ROOM) if whole.total > budget else 0
        memory = replace(whole, weights=whole.weights + whole.beside - max(0, away - ROOM) * block, beside=0.0)
        seconds = step_seconds(
            self.sizes, setup, self._device(setup), self.forwards, normals=self.normals, streamed=away * block
        )
        return Way(name, f"memory_budget={budget / 1e9:.4g}GB perturbation=read_only{self.jit}", memory, seconds)

    def _room(self, setup: Setup) -> float:
        """What a device has, or two thirds of what all weights take where that is enough for them."""
        whole = step_memory(self.sizes, setup).total
        return self.limit if whole > self.limit else whole * 2 / 3

    def _device(self, setup: Setup) -> Device:
        """The device, with a rate for the setup's products: of another dtype where only that was measured."""
        flops = self.device.flops
        return self.device if setup.dtype in flops else replace(self.device, flops={setup.dtype: max(flops.values())})


def _population(config: RunConfig) -> int:
    """Points at which a micro-batch's loss is taken in a step."""
    if config.run.method == "mezo":
        return 2
    from zoft.directions import DirectionSource
    from zoft.estimators import estimator

    made = estimator(config.zo.zo_estimator, eps=config.zo.zo_eps)
    return len(made.population(DirectionSource(0).at(0, config.zo.zo_directions)))


def _at_once(config: RunConfig, rows: int) -> int:
    """Points that go through the model together."""
    if config.run.method == "mezo" or config.zo.zo_panels != "lockstep":
        return 1
    budget, points = config.zo.zo_row_budget, _population(config)
    return points if budget is None else max(1, min(points, budget // rows))


def _budget(settings: dict[str, Any]) -> float | None:
    from zoft.limits import size_in_bytes

    asked = settings.get("memory_budget")
    return None if asked is None else size_in_bytes("memory_budget", str(asked))
