"""What moves, under which address: the only writer of weights."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import nn

from zoft.backends import Backend, Move, Rounding, Target, TensorMove, Term, backend
from zoft.backends.scaled import ScaledBackend
from zoft.backends.shaped import ShapedBackend
from zoft.backends.small_weights import SmallWeightsBackend, threshold
from zoft.buffers import Buffers, wide, zeros_like
from zoft.checksum import checksum
from zoft.directions import Direction, Window, sees
from zoft.directions.blocks import block_numbers
from zoft.directions.rademacher import LANES
from zoft.errors import UnsupportedModuleError, UsageError
from zoft.naming import canonical_name, stream_ids
from zoft.shards import Shard, check_tied, is_sharded, part_of, reshard
from zoft.streaming.stream import streamed

NORM_PANEL = 1 << 22  # elements that are in float64 at once
Zeros = Callable[[torch.Tensor, torch.dtype], torch.Tensor]
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    """One trainable parameter: its tensor, its address, and every module attribute through which it is read."""

    name: str  # canonical
    held: torch.Tensor  # the parameter; where it is sharded, the part that this process held at first
    window: Window  # of `weight`
    decays: bool  # weight decay applies: matrices that are not a norm's
    owners: tuple[tuple[nn.Module, str], ...]  # tied weights have several
    residual: torch.Tensor | None  # low-order bits beside a bfloat16 weight
    shard: Shard | None = None

    @property
    def weight(self) -> torch.Tensor:
        """The tensor; of a sharded one the part that this process holds (FSDP2 moves uneven ones at their first forward)."""
        return self.held if self.shard is None else self.shard.part

    @property
    def is_matrix(self) -> bool:
        """Whether directions with thin factors have factors here; to a vector, or a matrix of one column, they are dense."""
        return self.window.total_columns > 1

    @property
    def parameter(self) -> nn.Parameter:
        """As the model holds it."""
        return self.held if self.shard is None else self.shard.parameter  # type: ignore[return-value]

    def whole(self, part: torch.Tensor) -> torch.Tensor:
        """The whole of `weight`, or of what lies beside it; of a sharded one, all processes must ask together."""
        return part if self.shard is None else self.shard.gathered(part)


class ParameterSpace:
    """The trainable parameters of a model and the only way to change them.

    Tied weights (one tensor under several names) are one parameter, under the first of its names. Which parameters are
    trainable is read once, from `requires_grad`; a Trainer may then freeze them all.

    Raises:
        UsageError: nothing is trainable, a trainable parameter is not floating point (an int8 base, say), two parameters
            overlap in memory without being tied, or the rounding does not suit their dtype.
        UnsupportedModuleError: a module writes to its own weight while it runs (`Embedding(max_norm=...)`).
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        rounding: Rounding | str = Rounding.NEAREST,
        backend_name: str = "auto",
        buffers: Sequence[str] = (),
        shaped: bool = False,
        blocks: int = 1,
        small: float | None = None,
    ) -> None:
        """
        Args:
            rounding: how 16-bit weights store an update.
            backend_name: who computes.
            buffers: of `zoft.buffers`, tensors as large as the weights that a rule keeps (4 bytes each; 8 for float64).
            shaped: directions may have thin factors or a mask, or be of one block.
            blocks: of layers, into which the parameters are divided.
            small: the share of each matrix, its smallest weights, that ever moves; None: all.
        """
        self.rounding = Rounding(rounding)
        sharded = any(is_sharded(weight) for weight in model.parameters())
        self._sharded = model if sharded else None
        self.reshard()
        trainable = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        if not trainable:
            raise UsageError("there is nothing to train: every parameter of the model has requires_grad=False")
        _check_dtypes(trainable, self.rounding)
        first_names = _merge_aliases(trainable)
        self.streamed = streamed(model)
        self.modules = frozenset(model.modules())
        self.largest = max(weight.nbytes for weight in model.parameters())  # bytes
        zeros = self._beside([trainable[name] for name in first_names], len(buffers))
        owners = _owners(model)
        streams = stream_ids(canonical_name(name) for name in first_names)
        numbers = block_numbers(map(canonical_name, first_names), blocks)
        self.slots = tuple(
            _slot(name, trainable[first], (streams[name], numbers[name]), owners, aliases, self.rounding, zeros)
            for first, aliases in first_names.items()
            for name in (canonical_name(first),)
        )
        self.device = self.slots[0].weight.device if self.streamed is None else self.streamed.device
        chosen = backend(backend_name, self.device)
        self.thresholds: dict[str, float] = {}  # of matrices of which only small weights move, by canonical name
        self._limits: dict[int, float] = {}  # the same by stream
        if small is not None:
            self._find_thresholds(small)
            chosen = SmallWeightsBackend(chosen, self._limits)
        self.backend: Backend = ShapedBackend(chosen) if shaped else chosen
        self.torn = False  # a write has begun and was interrupted: no step leads to these weights
        self._filled = tuple(slot for slot in self.slots if slot.weight.numel() or slot.shard is None)
        self._fixed = None if sharded else self._in_order()
        self.momenta = Buffers(buffers, {s.name: s.weight for s in self.slots}, zeros)
        if "curvature" in buffers:
            if sharded:
                raise UsageError(
                    "zo_rule=hizoo keeps its curvatures whole; a model cut by fully_shard needs another rule"
                )
            scales = {s.window.stream: self.momenta.of(["curvature"], s.name)[0] for s in self.slots}
            self.backend = ScaledBackend(self.backend, scales)

    @property
    def _written(self) -> list[tuple[int | None, list[tuple[Target, Slot]]]]:
        """As `_in_order`; the parts of a sharded model may have moved since."""
        return self._in_order() if self._fixed is None else self._fixed

    def _beside(self, weights: Sequence[torch.Tensor], buffers: int) -> Zeros:
        """Makes what lies beside weights where they live, with the room for all of it taken at once."""
        if self.streamed is None:
            return zeros_like
        kept = [(w, _residual_dtype(w, self.rounding)) for w in weights]
        kept += [(w, wide(w)) for w in weights] * buffers
        needed = [(w, dtype) for w, dtype in kept if dtype is not None]
        self.streamed.reserve([w for w, _ in needed], [dtype for _, dtype in needed])
        return self.streamed.zeros_beside

    def _in_order(self) -> list[tuple[int | None, list[tuple[Target, Slot]]]]:
        """(streamed block, its targets) in the order in which blocks are written; None: all that is on the device."""
        parts: dict[int | None, list[tuple[Target, Slot]]] = {}
        for slot in self._filled:
            block = None if self.streamed is None else self.streamed.block_of(slot.weight)
            target = Target(slot.weight, slot.window, slot.decays, slot.residual)
            parts.setdefault(block, []).append((target, slot))
        return sorted(parts.items(), key=lambda part: -1 if part[0] is None else part[0])

    def __len__(self) -> int:
        return len(self.slots)

    @property
    def elements(self) -> int:
        """d: the number of trainable elements."""
        return sum(slot.parameter.numel() for slot in self.slots)

    def elements_of(self, block: int, density: float = 1.0) -> int:
        """Of one block of layers; of its matrices a share."""
        inside = [slot for slot in self.slots if slot.window.block == block]
        return round(sum(s.parameter.numel() * (density if s.window.total_columns > 1 else 1.0) for s in inside))

    def length_of(self, direction: Direction) -> tuple[float, int]:
        """(||z||^2, d) over the parameters that the direction moves; summed in float64 in one order on every device.

        z is drawn once more for it, a panel at a time; nothing stays.
        """
        squares: list[torch.Tensor] = []
        count = 0
        for slot in (slot for slot in self.slots if sees(direction, slot.window)):
            window = slot.window
            count += slot.parameter.numel()
            step = max(LANES, NORM_PANEL // max(1, window.columns) // LANES * LANES)
            for start in range(0, window.rows, step):
                panel = window.panel(start, min(start + step, window.rows))
                z = torch.zeros(panel.shape, dtype=torch.float64, device=slot.weight.device)
                self.backend.axpby_(Target(z, panel), [Move((Term(direction, 1.0),))])
                squares.append(self.backend.dot(Target(z, panel), direction))
        return math.fsum(_numbers(squares)), count

    def _find_thresholds(self, share: float) -> None:
        if self.sharded:
            raise UsageError(
                "zo_shape=small_weights looks for the smallest of whole matrices; it cannot be had of a sharded model"
            )
        matrices = [slot for slot in self.slots if slot.window.total_columns > 1 and slot.weight.numel()]
        self.load_thresholds({slot.name: threshold(slot.weight, share) for slot in matrices})

    def load_thresholds(self, thresholds: dict[str, float]) -> None:
        """Put back the thresholds of a run's beginning.

        Raises:
            UsageError: they belong to other parameters.
        """
        streams = {slot.name: slot.window.stream for slot in self.slots}
        if not thresholds.keys() <= streams.keys():
            raise UsageError("the thresholds of small weights do not match this model's matrices")
        self.thresholds = dict(thresholds)
        self._limits.clear()
        self._limits.update({streams[name]: limit for name, limit in thresholds.items()})

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """[N, K] of every trained parameter that is one, as directions see it; vectors, one column and empty ones are none."""
        wholes = (slot.window if slot.shard is None else slot.shard.whole for slot in self.slots)
        return [(w.total_rows, w.total_columns) for w in wholes if w.total_columns > 1 and w.total_rows]

    def moves_about(self, slot: Slot) -> bool:
        """Whether a weight is at one address while its block runs, and at another otherwise."""
        return self.streamed is not None and self.streamed.copies and self.streamed.block_of(slot.weight) is not None

    @property
    def sharded(self) -> bool:
        """Whether this process holds parts of the weights only."""
        return self._sharded is not None

    def reshard(self) -> None:
        """Free the gathered copies of a sharded model."""
        if self._sharded is not None:
            reshard(self._sharded)

    def settle(self) -> None:
        """All blocks of a streamed model are back where they live, with all that was written."""
        if self.streamed is not None:
            self.streamed.carrier.settle()

    def move_(self, moves: Sequence[Move], matrices: bool | None = None) -> None:
        """Apply `moves` in order to every weight, rounding to storage after each; or to matrices, or all others, alone."""
        self.reshard()
        before, self.torn = self.torn, True
        for block, written in self._written:
            if matrices is not None:
                written = [(target, slot) for target, slot in written if slot.is_matrix is matrices]
            with nullcontext() if block is None or self.streamed is None else self.streamed.here(block):
                self._write(written, moves)
        self.settle()
        self.torn = before

    def _write(self, written: Sequence[tuple[Target, Slot]], moves: Sequence[Move]) -> None:
        for kind, run in groupby(moves, key=type):
            if kind is Move:
                self.backend.sweep_([target for target, _ in written], list(run), self.rounding)
                continue
            for move in run:
                self._through_tensors_(written, move)  # type: ignore[arg-type]

    def _through_tensors_(self, written: Sequence[tuple[Target, Slot]], move: TensorMove) -> None:
        for target, slot in written:
            move.spend_(self.backend, target, self.momenta.of(move.buffers, slot.name), self.rounding)

    def norm(self) -> float:
        """The Euclidean norm of all trainable weights, accumulated in float64."""
        return math.sqrt(math.fsum(sum_of_squares(slot.whole(slot.weight.detach())) for slot in self.slots))

    def residuals(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The low-order bits by parameter name: a checkpoint must carry them for an exact resume."""
        for slot in self.slots:
            if slot.residual is not None:
                yield slot.name, slot.residual

    def load_residuals(self, residuals: dict[str, torch.Tensor]) -> None:
        """Put back the low-order bits of a checkpoint.

        Raises:
            UsageError: they belong to other parameters.
        """
        mine = dict(self.residuals())
        if mine.keys() != residuals.keys():
            odd = sorted(mine.keys() ^ residuals.keys())
            raise UsageError(
                f"the checkpoint's residual bits do not match this model's weights: {', '.join(odd[:3])} …"
            )
        for name, bits in residuals.items():
            mine[name].copy_(bits)

    def stored(self, slot: Slot) -> Iterator[torch.Tensor | None]:
        """All that is kept of a parameter: its weight, its low-order bits or None, the rule's buffers (None: no momentum)."""
        yield slot.weight.detach()
        yield slot.residual
        yield from self.momenta.beside(slot.name)

    def load_weights(self, weights: dict[str, torch.Tensor]) -> None:
        """Put back weights that were copied earlier, by canonical name.

        Raises:
            UsageError: they belong to other parameters.
        """
        mine = {slot.name: slot.weight for slot in self.slots}
        if {n: (w.shape, w.dtype) for n, w in mine.items()} != {n: (w.shape, w.dtype) for n, w in weights.items()}:
            raise UsageError("the copied weights are not those of this model: names, shapes or dtypes differ")
        for name, weight in weights.items():
            mine[name].detach().copy_(weight)
        self.torn = False

    def fingerprint(self) -> str:
        """16 hex digits of blake2b over names, shapes, dtypes and all stored bytes: equal if and only if the weights are."""
        digest = hashlib.blake2b(digest_size=8)
        for slot in self.slots:
            digest.update(f"{slot.name} {tuple(slot.parameter.shape)} {slot.weight.dtype};".encode())
            for stored in self.stored(slot):
                if stored is not None and slot.parameter.numel():
                    digest.update(slot.whole(stored).contiguous().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def checksum(self) -> int:
        """64 bits over all stored bytes, made on the weights' device: quicker than `fingerprint`, for comparing ranks."""
        stored = ((slot, part) for slot in self.slots for part in self.stored(slot))
        return checksum(slot.whole(part) for slot, part in stored if part is not None)


def sum_of_squares(values: torch.Tensor) -> float:
    """||values||^2 in float64, of which one panel is held at a time."""
    panels = values.detach().reshape(-1).split(NORM_PANEL)
    return math.fsum(_numbers([panel.to(torch.float64).square().sum() for panel in panels]))


def _numbers(scalars: Sequence[torch.Tensor]) -> Iterator[float]:
    """Of tensors without dimensions; brought to the host together, where a GPU would be waited for once each."""
    places: dict[torch.device, list[torch.Tensor]] = {}
    for scalar in scalars:
        places.setdefault(scalar.device, []).append(scalar)
    for some in places.values():
        yield from torch.stack(some).tolist()


def _residual_dtype(weight: torch.Tensor, rounding: Rounding) -> torch.dtype | None:
    """Of the low-order bits that lie beside a weight; None: there are none."""
    return rounding.residual_dtype if weight.dtype is torch.bfloat16 else None


def _check_dtypes(trainable: dict[str, nn.Parameter], rounding: Rounding) -> None:
    for name, weight in trainable.items():
        if weight.dtype not in FLOATS:
            raise UsageError(
                f"parameter {name!r} is {weight.dtype} and cannot be trained itself; "
                "put an adapter on a quantised base (tuning=lora) or load the model in float32, bfloat16 or float16"
            )
        if rounding.residual_dtype is not None and weight.dtype is torch.float16:
            raise UsageError(
                f"weight_rounding={rounding.value} keeps the low bits of bfloat16 weights, but {name!r} is float16; "
                "use dtype=bfloat16, or weight_rounding=stochastic"
            )


def _merge_aliases(trainable: dict[str, nn.Parameter]) -> dict[str, list[nn.Parameter]]:
    """First name -> all parameter objects that are views of the same memory."""
    by_storage: dict[int, list[tuple[int, int, str]]] = defaultdict(list)
    merged: dict[str, list[nn.Parameter]] = {}
    for name, weight in trainable.items():
        if weight.numel() == 0 or weight.device.type == "meta" or is_sharded(weight):
            merged[name] = [weight]
            continue
        start = weight.data_ptr()
        stop = start + weight.element_size() * (
            1 + sum((n - 1) * s for n, s in zip(weight.shape, weight.stride(), strict=True))
        )
        ranges = by_storage[weight.untyped_storage().data_ptr()]
        for other_start, other_stop, other in ranges:
            if start < other_stop and other_start < stop:
                twin = merged[other][0]
                if (start, weight.shape, weight.stride()) != (other_start, twin.shape, twin.stride()):
                    raise UsageError(
                        f"parameters {other!r} and {name!r} overlap in memory without being the same tensor"
                    )
                merged[other].append(weight)
                break
        else:
            ranges.append((start, stop, name))
            merged[name] = [weight]
    return merged


def _owners(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """id of a parameter -> the (module, attribute) pairs that hold it."""
    owners: dict[int, list[tuple[nn.Module, str]]] = defaultdict(list)
    for module in model.modules():
        for attribute, weight in module._parameters.items():
            if weight is not None:
                owners[id(weight)].append((module, attribute))
    return owners


def _slot(
    name: str,
    weight: nn.Parameter,
    address: tuple[int, int],  # stream, block
    owners: dict[int, list[tuple[nn.Module, str]]],
    aliases: Iterable[nn.Parameter],
    rounding: Rounding,
    zeros: Zeros,
) -> Slot:
    holders = tuple(holder for alias in aliases for holder in owners[id(alias)])
    for module, _ in holders:
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.max_norm is not None:
            raise UnsupportedModuleError(
                f"{name!r} belongs to an embedding with max_norm={module.max_norm}, which rewrites its weight in every "
                "forward pass; set max_norm=None or freeze it"
            )
    is_norm = any("norm" in type(module).__name__.lower() for module, _ in holders)
    part, window, shard = weight, Window.whole(address[0], weight.shape, address[1]), None
    if is_sharded(weight):
        check_tied(name, weight, [module for module, _ in holders])
        part, window, shard = part_of(name, weight, *address)
    kept = _residual_dtype(weight, rounding)
    residual = None if kept is None else zeros(part, kept)
    return Slot(name, part, window, weight.ndim >= 2 and not is_norm, holders, residual, shard)
