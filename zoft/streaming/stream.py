"""`stream(model, "8GB")`: blocks that do not fit into the budget live outside the device and come in while they run."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from zoft.errors import UsageError
from zoft.limits import human_bytes, size_in_bytes
from zoft.streaming.copied import Copied
from zoft.streaming.paged import Paged
from zoft.streaming.plan import Block, Plan, plan
from zoft.streaming.settings import check_streaming
from zoft.streaming.store import PAGE_OUT, Store, advise, inner_area
from zoft.streaming.turns import Turns

logger = logging.getLogger(__name__)
T = TypeVar("T")
MARK = "zoft_streamed"  # attribute of a streamed block
RESIDUAL_BYTES = {"auto": 2, "residual16": 2, "residual8": 1}  # of a bfloat16 weight; auto: the most it may choose


class Streamed:
    """The streamed blocks of a model, and whatever training keeps beside their weights."""

    def __init__(self, model: nn.Module, chosen: Plan, store: Store, carrier: Paged | Copied) -> None:
        self.plan, self.store, self.carrier = chosen, store, carrier
        self._model = model
        self._turns: Turns[Any] = Turns(
            lambda number: carrier.enter(number, self._after(number)),
            lambda number: carrier.leave(number, changed=False),
        )
        self._of: dict[int, int] = {}  # id of a weight -> number of its block
        store.reserve(weight.nbytes for block in chosen.streamed for weight in block.weights)
        for number, block in enumerate(chosen.streamed):
            self._spill(number, block)
            setattr(block.module, MARK, self)
            block.module.register_forward_pre_hook(functools.partial(self._enter, number))
            block.module.register_forward_hook(functools.partial(self._leave, number), always_call=True)
            block.module._apply = functools.partial(_stays, block)  # type: ignore[method-assign]

    @property
    def device(self) -> torch.device:
        """Where blocks run."""
        return self.carrier.device

    @property
    def copies(self) -> bool:
        """Whether a block that runs is at another address than one that does not."""
        return isinstance(self.carrier, Copied)

    def __deepcopy__(self, memo: Any) -> Any:
        raise UsageError("a streamed model cannot be copied: its weights lie in one file; leave memory_budget out")

    def __reduce__(self) -> Any:
        raise UsageError("a streamed model cannot be pickled; save it with save_pretrained, or its state_dict")

    def block_of(self, weight: torch.Tensor) -> int | None:
        """The number of the block that a parameter belongs to; None: it stays on the device."""
        return self._of.get(id(weight))

    def reserve(self, weights: Sequence[torch.Tensor], dtypes: Sequence[torch.dtype]) -> None:
        """Take the room of what is to lie beside `weights`. Raises UsageError: there is none."""
        self.store.reserve(w.numel() * d.itemsize for w, d in zip(weights, dtypes, strict=True) if id(w) in self._of)

    def zeros_beside(self, weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Zeros of a weight's shape; those of a streamed one come and go with it."""
        if id(weight) not in self._of:
            return torch.zeros(weight.shape, dtype=dtype, device=weight.device)
        made = self.store.zeros(weight.shape, dtype)
        self.carrier.add(self._of[id(weight)], made)
        return made

    @contextmanager
    def here(self, number: int) -> Iterator[None]:
        """Inside, a block is on the device and may be written; what was written is kept."""
        self.carrier.enter(number, self._after(number))
        try:
            yield
        finally:
            self.carrier.leave(number, changed=True)

    def in_turns(self, losses: Sequence[Callable[[], T]], suspend: Callable[[], Callable[[], None]]) -> list[T]:
        """What each of several losses returns; a block is brought in once for all of them (`zoft.streaming.turns`).

        Args:
            suspend: puts away what one loss must not find of another; returns what brings it back.
        """

        def put_away() -> Callable[[], None]:
            training, resume = self._model.training, suspend()

            def go_on() -> None:
                self._model.training = training
                resume()

            return go_on

        training = self._model.training
        try:
            return self._turns.run(losses, put_away)
        finally:
            self._model.training = training

    def words(self) -> str:
        """What streams, for a person."""
        where = "the machine's memory" if self.store.where is None else str(self.store.where)
        away = human_bytes(sum(block.nbytes for block in self.plan.streamed), 2)
        whole, most = human_bytes(self.plan.nbytes, 2), human_bytes(self.plan.resident, 2)
        return (
            f"memory_budget: {len(self.plan.streamed)} of {self.plan.blocks} blocks, {away} of {whole}, stream from "
            f"{where}; at most {most} are on the device"
        )

    def _after(self, number: int) -> int | None:
        return number + 1 if number + 1 < len(self.plan.streamed) else None

    def _enter(self, number: int, *_: Any) -> None:
        runner = self._turns.running
        if runner is None:
            self.carrier.enter(number, self._after(number))
        else:
            runner.pause(number)

    def _leave(self, number: int, *_: Any) -> None:
        if self._turns.running is None:
            self.carrier.leave(number, changed=False)

    @torch.no_grad()
    def _spill(self, number: int, block: Block) -> None:
        """Move a block's weights into the store, and let go of where they were."""
        for weight in block.weights:
            home = self.store.zeros(weight.shape, weight.dtype)
            home.copy_(weight)
            advise(
                [inner_area(weight)] if weight.device.type == "cpu" else [], PAGE_OUT
            )  # pages of the files it came from
            weight.data = home
            self._of[id(weight)] = number
            self.carrier.add(number, weight)
        for module in block.module.modules():
            for name, buffer in module._buffers.items():
                module._buffers[name] = None if buffer is None else buffer.to(self.device)
        self.carrier.leave(number, changed=False)


def stream(
    model: nn.Module,
    memory_budget: str,
    to: str = "auto",
    *,
    device: torch.device | str | None = None,
    folder: str | Path = ".",
    weight_rounding: str = "auto",
    buffers: int = 0,
) -> Streamed | None:
    """Let as many blocks of `model` as the budget asks for live outside the device. Call it before the optimizer is made.

    Args:
        model: any module whose blocks are called from an `nn.ModuleList`, as all of Transformers' decoders are.
        memory_budget: such as 8GB: what weights may take on the device (`zoft.streaming.plan`).
        to: `memory` (the machine's), `disk` (a nameless file in `folder`), or a folder; `auto`: memory of a GPU's machine, the
            disk for a CPU.
        device: where blocks run; None: where the model's first weight is.
        folder: where `disk` is; the nearest folder above it that exists is taken.
        weight_rounding, buffers: of the optimizer to come, which may keep low-order bits and buffers beside a weight.

    Returns:
        None where all fits.

    Raises:
        UsageError: a budget below what the model needs; a disk or memory that is too full; FSDP, quantised or compiled models.
    """
    check_streaming(memory_budget, to)
    if streamed(model) is not None:
        raise UsageError("the model is streamed already")
    where = torch.device(device) if device is not None else next(model.parameters()).device
    chosen = plan(model, size_in_bytes("memory_budget", memory_budget), _beside(weight_rounding, buffers))
    if not chosen.streamed:
        logger.info("memory_budget=%s: the whole model fits, nothing is streamed", memory_budget)
        return None
    on_cpu = where.type == "cpu"
    in_memory = to == "memory" or (to == "auto" and not on_cpu)
    store = Store(None if in_memory else _folder(folder if to in ("auto", "disk") else to))
    carrier = Paged(chosen.largest) if on_cpu else Copied(where, pinned=in_memory)
    made = Streamed(model, chosen, store, carrier)
    if on_cpu and hasattr(model, "save_pretrained") and not hasattr(model, "peft_config"):
        # A file at a time is in memory while a model is saved
        smaller = max(2 * chosen.largest, 1 << 26)
        model.save_pretrained = functools.partial(model.save_pretrained, max_shard_size=smaller)  # type: ignore[assignment]
    logger.info("%s", made.words())
    return made


def streamed(model: nn.Module) -> Streamed | None:
    """What `stream` made of this model; None: it was not called, or all fits."""
    return next((vars(module)[MARK] for module in model.modules() if MARK in vars(module)), None)


def _beside(weight_rounding: str, buffers: int) -> Callable[[nn.Parameter], int]:
    def count(weight: nn.Parameter) -> int:
        if not weight.requires_grad:
            return 0
        residual = RESIDUAL_BYTES.get(weight_rounding, 0) if weight.dtype is torch.bfloat16 else 0
        return weight.numel() * (residual + buffers * (8 if weight.dtype is torch.float64 else 4))

    return count


def _folder(wanted: str | Path) -> Path:
    here = Path(wanted).expanduser().absolute()
    return next(folder for folder in (here, *here.parents) if folder.is_dir())


def _stays(block: Block, change: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> nn.Module:
    """In place of `nn.Module._apply`: `model.to(device)` moves the rest of the model. UsageError for another dtype."""
    probe = torch.empty(0, dtype=block.weights[0].dtype)
    if change(probe).dtype is not probe.dtype:
        raise UsageError("a streamed model keeps its dtype; convert it before it is streamed (dtype=…)")
    return block.module
