"""A step that is repeated without the host: losses, estimate and update are one function of tensors in their places."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from zoft.backends import Move, Term
from zoft.backends.standing import StandingBackend
from zoft.captured.first import Check
from zoft.captured.repeated import Repeated
from zoft.captured.suits import check_in_place, check_suits
from zoft.errors import UsageError
from zoft.estimate import Estimate, Flag, Step
from zoft.exact import mean
from zoft.optimizer import ZOOptimizer
from zoft.perturb import ReadOnly, evaluation_mode
from zoft.same_draws import SameDraws
from zoft.tally import NARROW_LOSS
from zoft_kernels import key_of

Batch = Mapping[str, torch.Tensor]


class _Places(NamedTuple):
    """Of one step: where the host writes what it wants, and finds what came; pinned beside a GPU, two in turn."""

    given: torch.Tensor  # int64 [3], as `CapturedStep._given`
    found: torch.Tensor  # float64 [3 q + 1], as `CapturedStep._found`
    done: torch.cuda.Event | None

    @classmethod
    def of(cls, given: torch.Tensor, found: torch.Tensor) -> _Places:
        """Like these tensors on the device."""
        on_gpu = given.device.type == "cuda"
        inward, outward = (torch.empty(len(t), dtype=t.dtype, pin_memory=on_gpu) for t in (given, found))
        return cls(inward, outward, torch.cuda.Event() if on_gpu else None)


class _Begun(NamedTuple):
    """A step that was handed to the device."""

    index: int
    lr: float
    places: _Places


class CapturedStep:
    """The steps of a `ZOOptimizer` on batches of one shape, each of them one CUDA graph.

    Seed and step, learning rate and batch are written into tensors on the GPU, and the graph does the rest: the losses at
    w + eps z and w - eps z for each direction, the coefficients in float64, the update. The host waits for nothing but, behind
    the launch of step t, the numbers of step t - 1: then the optimizer counts that step and its observers are told of it. So a
    process that is killed has recorded all steps but the one or two last ones, which its weights may have taken.

    >>> step = CapturedStep(optimizer, lambda batch: model(**batch).loss, first)   # doctest: +SKIP
    >>> for batch in batches:                                                      # doctest: +SKIP
    ...     step(batch)
    >>> step.finish()                                                              # doctest: +SKIP

    The weights are bit for bit those of ordinary steps with the same coefficients.
    """

    def __init__(self, optimizer: ZOOptimizer, loss: Callable[[dict[str, torch.Tensor]], torch.Tensor], batch: Batch):
        """
        Args:
            optimizer: with the Triton backend; what else it must be, `zoft.captured.suits` says.
            loss: of a batch: a scalar, or the losses of the examples [B], on the GPU. It is called while this is made, and
                never again; nothing in it may wait for the GPU, or depend on anything but the batch and the model.
            batch: tensors, whose shapes and types all batches will have.

        Raises:
            UsageError: settings, or a loss, that cannot be captured; the message says why and what to take instead.
        """
        check_suits(optimizer)
        check_in_place(optimizer)
        self.optimizer, self._loss, self._space = optimizer, loss, optimizer.space
        device = self._device = self._space.device
        for name, value in batch.items():
            if not isinstance(value, torch.Tensor):
                raise UsageError(f"a captured step is given tensors alone, but {name!r} is a {type(value).__name__}")
        self._batch = {name: value.detach().to(device, copy=True) for name, value in batch.items()}
        q = optimizer.directions
        directions = optimizer.source.at(optimizer.steps, q)
        self._points = optimizer.estimator.population(directions)
        key = directions[0].key
        self._update = Move(tuple(Term(direction, 1.0) for direction in directions), rounding_key=key)
        # Key, bits of the learning rate, whether to move
        self._given = torch.tensor([key_of(*key), 0, 0], device=device)
        # Losses, coefficients, whether it moved
        self._found = torch.zeros(3 * q + 1, dtype=torch.float64, device=device)
        self._width = torch.tensor(2.0 * optimizer.estimator.eps, dtype=torch.float64, device=device)
        self._count = torch.tensor(float(q), dtype=torch.float64, device=device)
        self._backend, self._seen = StandingBackend(), ReadOnly(self._space)
        self._forbid_draws()
        self._repeat = Repeated(self._run, device)  # the learning rate is 0, and nothing is moved
        self._places = [_Places.of(self._given, self._found) for _ in range(2)]
        self._begun: list[_Begun] = []
        self._where, self._checked = self._addresses(), False

    def __call__(self, batch: Batch) -> float | None:
        """Hand one step to the device, with the optimizer's present learning rate.

        Args:
            batch: as the one that this was made with; it may be changed once the next call is made.

        Returns:
            The loss of the last step that is known, as a rule the one before; in the first call, which waits for it, its own.

        Raises:
            UsageError: a batch of other shapes; settings that were changed; in the first call, other weights or losses than
                those of an ordinary step.
        """
        optimizer = self.optimizer
        check_suits(optimizer)
        if self._addresses() != self._where:
            raise UsageError(
                "a weight is somewhere else in memory than when this step was captured: make another CapturedStep"
            )
        if optimizer.unfinished not in (None, self.finish):
            optimizer.catch_up()
        self._fill(batch)
        index, lr = optimizer.steps + len(self._begun), float(optimizer.param_groups[0]["lr"])
        check = None if self._checked else Check(self._space, self._ordinary_losses(index))
        self._checked = True
        places = self._places[index % 2]
        self._hand_over(places, index, lr)
        self._repeat()
        places.found.copy_(self._found, non_blocking=True)
        if places.done is not None:
            places.done.record(torch.cuda.current_stream(self._device))
        self._begun.append(_Begun(index, lr, places))
        optimizer.unfinished, self._space.torn = self.finish, True  # the weights are ahead of what is recorded
        at_once = check is not None or optimizer.watched
        while len(self._begun) > (0 if at_once else 1):
            self._tell(check)
        return None if optimizer.last is None else optimizer.last.estimate.loss

    def finish(self) -> None:
        """Wait for all steps, and tell of them. The optimizer does so before its state is read, or an ordinary step taken."""
        while self._begun:
            self._tell()

    def _addresses(self) -> list[int]:
        return [slot.weight.data_ptr() for slot in self._space.slots]

    def _fill(self, batch: Batch) -> None:
        wanted = {name: (tuple(t.shape), t.dtype) for name, t in self._batch.items()}
        came = {name: (tuple(t.shape), t.dtype) for name, t in batch.items()}
        if came != wanted:
            raise UsageError(
                f"this step was captured for a batch of {wanted}, but {came} came: pad to these shapes, or make a "
                "CapturedStep for each"
            )
        for name, value in batch.items():
            self._batch[name].copy_(value.detach(), non_blocking=True)

    def _hand_over(self, places: _Places, index: int, lr: float) -> None:
        places.given[0], places.given[2] = key_of(self.optimizer.source.seed, index), 1
        places.given[1:2].view(torch.float64)[0] = lr
        self._given.copy_(places.given, non_blocking=True)

    @torch.no_grad()
    def _run(self) -> None:
        """The step, as a function of `_given`, `_batch` and the weights."""
        key, lr, moving = self._given[0], self._given[1:2].view(torch.float64), self._given[2]
        self._backend.turn_(key)
        before, self._space.backend = self._space.backend, self._backend
        try:
            with evaluation_mode(self.optimizer.model):
                losses = torch.stack(self._seen.losses(self._points, self._mean_loss))
            coefficients = (losses[0::2] - losses[1::2]) / self._width / self._count  # `TwoPoint`'s
            moved = (losses.isfinite().all() & coefficients.isfinite().all()).to(torch.int64) * moving
            self._backend.scale_(self._update, -lr * coefficients, moved)
            self._space.move_([self._update])
        finally:
            self._space.backend = before
        self._found.copy_(torch.cat((losses, coefficients, moved.to(torch.float64).view(1))))

    def _mean_loss(self) -> torch.Tensor:
        """float64 scalar."""
        loss: Any = self._loss(dict(self._batch))
        if not isinstance(loss, torch.Tensor) or loss.device != self._device or loss.ndim > 1 or not loss.numel():
            came = f"{tuple(loss.shape)} on {loss.device}" if isinstance(loss, torch.Tensor) else type(loss).__name__
            raise UsageError(
                f"the loss of a captured step is a tensor on {self._device}, a scalar or one number per example, not {came}"
            )
        if loss.dtype in (torch.bfloat16, torch.float16):
            warnings.warn(NARROW_LOSS.format(loss.dtype), stacklevel=2)
        loss = loss.detach().to(torch.float64)
        return loss if loss.ndim == 0 else loss.sum() / torch.full((), len(loss), dtype=loss.dtype, device=loss.device)

    def _forbid_draws(self) -> None:
        """Raises UsageError for a loss that draws random numbers: a graph would draw others at each point."""
        with torch.no_grad(), evaluation_mode(self.optimizer.model):
            alone = SameDraws(self._mean_loss, [self._device])
            alone.once(
                self._mean_loss,
                forbidden="and a captured step cannot draw the same at every point; take ordinary steps",
            )

    def _ordinary_losses(self, index: int) -> list[float]:
        """Of the batch that is in place, at the points of step `index`."""
        points = self.optimizer.estimator.population(self.optimizer.source.at(index, self.optimizer.directions))
        with torch.no_grad(), evaluation_mode(self.optimizer.model):
            return [float(loss) for loss in ReadOnly(self._space).losses(points, self._mean_loss)]

    def _tell(self, check: Check | None = None) -> None:
        """Wait for the first of the steps that were begun; it is the optimizer's now, and its observers are told."""
        optimizer, (index, lr, places) = self.optimizer, self._begun[0]
        if places.done is not None:
            places.done.synchronize()
        *numbers, moved = places.found.tolist()
        q = len(numbers) // 3
        estimate = Estimate(optimizer.source.at(index, q), tuple(numbers[2 * q :]), mean(numbers[: 2 * q]))
        step = Step(index, estimate, lr, flags=Flag.NONE if moved else Flag.NONFINITE)
        del self._begun[0]
        optimizer.unfinished = self.finish if self._begun else None
        if check is not None:
            check.compare(
                optimizer, step, numbers[: 2 * q]
            )  # raises where no step that could be told led to the weights
        self._space.torn = bool(self._begun)
        optimizer.told(step)
