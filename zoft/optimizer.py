"""The zeroth-order optimizer: `torch.optim.Optimizer` for any nn.Module, with losses instead of gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from zoft.backends import Move, Point, Rounding, Term
from zoft.backlog import Backlog
from zoft.directions import Blocks, Direction, DirectionSource, Distribution, Form
from zoft.distributed import gather, world_size
from zoft.errors import UsageError
from zoft.estimate import Estimate, Flag, Step
from zoft.estimators import estimator as make_estimator
from zoft.exact import mean
from zoft.governor import Evidence, Governor, Request
from zoft.limits import check_count, check_directions, check_not_negative, check_panels, check_positive, check_seed
from zoft.lockstep import Lockstep, TakenLoss
from zoft.perturb import ReadOnly, choose_perturbation, evaluation_mode
from zoft.perturb import perturbation as make_perturbation
from zoft.rules import rule as make_rule
from zoft.rules import spend
from zoft.same_draws import SameDraws
from zoft.schedule import Schedule
from zoft.shards import is_sharded
from zoft.space import ParameterSpace
from zoft.sphere import Sphere
from zoft.spread import Spread
from zoft.storage import choose_rounding, free_bytes
from zoft.streaming.stream import streamed
from zoft.tally import Part, Taken, Totals, total
from zoft.together import check_merging, check_together

Loss = Callable[[], "torch.Tensor | float"]
# Settings that a checkpoint does not name because it is older than they are -> what it was trained with.
BEFORE: dict[str, Any] = {"form": [], "blocks": [], "panels": "jit", "merge_every": 1}


class ZOOptimizer(torch.optim.Optimizer):
    """Trains whatever parameters of `model` require gradients, with forward passes only.

    >>> model = nn.Linear(4, 1)
    >>> x = torch.ones(8, 4)
    >>> optimizer = ZOOptimizer(model, lr=0.01)
    >>> losses = [optimizer.step(lambda: (model(x) - 3.0).square().mean()) for _ in range(300)]
    >>> losses[-1] < 0.01 * losses[0]
    True

    `step(closure)` evaluates the closure at w + eps z and w - eps z (for each of `directions` seeded z), forms the
    two-point estimate and moves the weights once. For gradient accumulation call `accumulate(closure)` per micro-batch,
    then `step()`.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        *,
        eps: float = 2.0**-10,
        directions: int | Schedule = 1,
        distribution: Distribution | str = Distribution.RADEMACHER,
        seed: int = 0,
        weight_decay: float = 0.0,
        perturbation: str = "read_only",
        weight_rounding: Rounding | str = "auto",
        estimator: str = "two_point",
        rule: str = "sgd",
        rule_settings: dict[str, Any] | None = None,
        form: Form | None = None,
        blocks: Blocks | None = None,
        backend: str = "auto",
        direction_groups: int = 1,
        panels: str = "jit",
        row_budget: int | None = None,
        merge_every: int = 1,
    ) -> None:
        """
        Args:
            model: any module; its parameters with requires_grad are trained.
            lr: learning rate, in squared weight units per unit of loss.
            eps: smoothing radius, in units of the weights.
            directions: q, the number of directions averaged in one step (two forwards each; see `zoft methods`), or its
                schedule.
            distribution: law of z, `rademacher`, `gaussian`, or `sphere`: normals scaled to the length sqrt(d).
            seed: of the run, in [0, 2^32).
            weight_decay: decoupled, per unit of lr; matrices only, not norms and biases.
            perturbation: `read_only` (weights are never written with noise), `in_place`, or `auto`, which takes the latter
                where it restores the weights all but exactly (`zoft.perturb.choose_perturbation`).
            weight_rounding: how 16-bit weights store an update; `auto` chooses (`zoft.storage`): by default they keep what
                rounding would lose.
            estimator, rule, rule_settings, backend: by name; see their tables.
            form: thin factors that directions are products of, or a mask; None: dense directions.
            blocks: of layers, of which each step moves one; None: all layers in every step.
            direction_groups: into how many groups the processes of torch.distributed are divided; each evaluates its
                share of the directions, so all ranks rank // groups must be given the same batch (`zoft.spread`).
            panels: how read-only losses see displaced weights: `jit`, one point after the other, or `lockstep`, all points of
                a step as rows of one batch (`zoft.lockstep`), for closures that are a `zoft.BatchLoss`.
            row_budget: the most rows that go through the model at once in lockstep; None: those of all points.
            merge_every: with thin factors, steps whose updates of matrices are merged into them at once (`zoft.backlog`), where
                `ahead` lets them wait; 1: every step writes its own.

        Raises:
            UsageError: a setting cannot work with this model; the message says which and why.
        """
        if not isinstance(model, nn.Module):
            raise UsageError(
                f"ZOOptimizer takes the model itself, whose modules are shown other weights, not {type(model).__name__}: "
                "ZOOptimizer(model, lr=…). What has requires_grad is trained"
            )
        check_not_negative("learning_rate", lr)
        check_not_negative("weight_decay", weight_decay)
        check_positive("eps", eps)
        if not isinstance(directions, Schedule):
            check_directions("directions", directions)
            directions = Schedule(((0, int(directions)),))
        check_seed("seed", seed)
        self.model = model
        trainable = [weight for weight in model.parameters() if weight.requires_grad]
        self.source = DirectionSource.of_law(int(seed), distribution, form, blocks)
        law, held = self.source.distribution, streamed(model) is None and not any(map(is_sharded, trainable))
        plain = form is None and direction_groups == 1 and held
        check_panels(panels, perturbation, row_budget)
        check_count("zo_merge_every", merge_every)
        perturbation = choose_perturbation(perturbation, trainable, eps=eps, distribution=law, plain=plain)
        free = _free_on_all(trainable) if weight_rounding == "auto" else None
        rounding = choose_rounding(trainable, weight_rounding, perturbation=perturbation, free=free)
        self.rule = make_rule(rule, **(rule_settings or {}))
        self.space = ParameterSpace(
            model,
            rounding=rounding,
            backend_name=backend,
            buffers=self.rule.buffers,
            shaped=self.source.shaped,
            blocks=blocks.count if blocks else 1,
            small=self.source.small,
        )
        self.schedule = directions
        self.spread = Spread(direction_groups)
        for count in directions.counts:
            self.spread.check(count, perturbation)
        check_together(
            self.source, self.space, perturbation=perturbation, groups=direction_groups, panels=panels, rule=rule
        )
        if merge_every > 1:
            sums = self.rule.sums and not self.rule.buffers
            check_merging(self.source, self.space, perturbation, rule, sums)
        self.backlog = Backlog(merge_every, wide=any(weight.dtype is torch.float64 for weight in trainable))
        self.sphere = Sphere(self.space) if self.source.sphere else None
        self.estimator = make_estimator(estimator, eps=eps)
        if self.estimator.curved != self.rule.curved:
            raise UsageError(
                "zo_estimator=three_point takes the loss at the weights for zo_rule=hizoo, which needs it: set both or "
                f"neither, not {estimator} and {rule}"
            )
        for count in directions.counts:
            self.estimator.check(count)
            self.rule.check(self.source.at(0, count))
        self.rule_state = self.rule.init()
        self.perturbation = (
            Lockstep(self.space, model, row_budget, self.backlog)
            if panels == "lockstep"
            else make_perturbation(
                perturbation, self.space, eps=eps, distribution=self.source.distribution, backlog=self.backlog
            )
        )
        self._devices = {weight.device for weight in model.parameters()}  # where a loss may draw random numbers
        self.steps = 0  # optimizer steps so far: the next step's index
        self.skipped = 0  # of them, how many moved nothing
        self.last: Step | None = None
        self.light = False  # whether `state_dict` leaves out what is as large as the weights: a log gives it back
        self.observers: list[Callable[[Step], None]] = []  # told of every step after it was applied
        self.governor: Governor | None = None  # may ask for extra losses, lower the learning rate, refuse a step
        self.ahead = False  # see `step`
        # Of a captured step that runs: waits, and tells of it (`told`)
        self.unfinished: Callable[[], None] | None = None
        self._parts: list[Part] = []  # the micro-batches of the step to come
        self._request: Request | None = None  # of the governor, for the same step
        self._probing: ReadOnly | None = None
        super().__init__([slot.parameter for slot in self.space.slots], {"lr": lr, "weight_decay": weight_decay})

    @property
    def directions(self) -> int:
        """q of the step to come."""
        return self.schedule.at(self.steps)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """The one group of all trained weights, made by the constructor.

        Raises:
            UsageError: another one. A step moves all weights along one direction, with one learning rate.
        """
        if self.param_groups:
            raise UsageError(
                "ZOOptimizer moves every weight of its model that required gradients when it was made, all with one "
                "learning rate: a second parameter group would not be trained. Set requires_grad first, then make the optimizer"
            )
        super().add_param_group(param_group)

    @property
    def forwards(self) -> int:
        """Losses that this process takes of a micro-batch for the step to come, beside those that the governor asks for."""
        return len(self._points(self._directions(self.steps)))

    def accumulate(self, closure: Loss, divisor: int | None = None, *, hold: bool = False) -> float:
        """Take the losses of one micro-batch at all points of this step's population.

        Args:
            closure: returns the loss of the micro-batch, or the losses of its examples [B], whose mean is the loss;
                called once per point with dropout off, no graph, and torch's generators in the same state each time.
            divisor: the micro-batch's loss counts 1/divisor in the sum over the micro-batches of all ranks; None: their
                mean is taken.
            hold: `step()` follows at once and nothing reads a weight before: in place, the way back to the weights is
                then made in one pass with the update.

        Returns:
            The mean of the losses (undivided): the micro-batch's loss, smoothed over eps.

        Raises:
            UsageError: no closure, or one that returns no loss.
        """
        if not callable(closure):
            raise UsageError(
                "a zeroth-order step takes the loss at several points, so it is given a closure that computes it, as in "
                f"optimizer.step(lambda: loss_of(model, batch)), but {type(closure).__name__} came"
            )
        self.catch_up()
        population = self._population(self.steps)
        if self._request is None:
            self._request = Request() if self.governor is None else self.governor.request(self.steps)
        loss = SameDraws(TakenLoss(closure), self._devices)
        asked = self._asked_points(self._request)
        also = asked if isinstance(self.perturbation, Lockstep) else []
        with self._whole_if_raised(), evaluation_mode(self.model):
            losses = self.perturbation.losses([*population, *also], loss, hold=hold and not self._request.points)
            losses, extra = losses[: len(population)], losses[len(population) :]
            if not also:
                extra = self._probe_losses(asked, loss)
        loss.leave()
        self._parts.append(Part(losses, divisor, tuple(whole for whole, _, _ in extra)))
        return mean(loss for loss, _, _ in losses)

    def _population(self, step: int) -> Sequence[Point]:
        """The points at which this process takes the losses of a step."""
        directions = self._directions(step)
        points = self._points(directions)
        return points if self.sphere is None else self.sphere.stretched(points, directions)

    def _points(self, directions: tuple[Direction, ...]) -> Sequence[Point]:
        """Those of the estimator that are this process's, before a sphere scales them."""
        return self.spread.mine(self.estimator.population(directions))

    def _directions(self, step: int) -> tuple[Direction, ...]:
        return self.source.at(step, self.schedule.at(step))

    def _asked_points(self, request: Request) -> Sequence[Point]:
        """Those of the governor's that are this process's."""
        probes = self.source.probes_at(self.steps, request.probes)
        return self.spread.mine([tuple(Term(probes[i], scale) for i, scale in point) for point in request.points])

    def _probe_losses(self, points: Sequence[Point], loss: Callable[[], Taken]) -> list[Taken]:
        """Losses at the governor's points, through read-only views: asking does not change training's path."""
        if any(points) and self._probing is None:
            self._probing = self.perturbation if isinstance(self.perturbation, ReadOnly) else ReadOnly(self.space)
        seen = self._probing if any(points) else self.perturbation  # the centre as the points around it are seen
        return [] if seen is None else [seen.losses([p], loss)[0] for p in points]

    @torch.no_grad()
    def step(self, closure: Loss | None = None) -> float | None:  # type: ignore[override]
        """Move the weights once along this step's estimate.

        Where `ahead` is set and nobody watches who could read a weight, they are left where the next losses want them: in place
        at the first point (two passes a step instead of three), in lockstep with the update still to be made, which the next
        losses do in the reading of each weight that they need anyway; for the same bits. With `merge_every` matrices are left
        without the updates of several steps, which losses see beside them. Set it only where nothing reads a
        weight before the next losses are taken; `settle` brings the weights where they belong, and is called before state_dict.

        Returns:
            The loss (mean over the population, micro-batches and ranks); None if nothing was evaluated since the last
            step.

        Raises:
            UsageError: nothing was evaluated, but gradients are there: whoever made them wants them to be used.
        """
        if closure is None and not self._parts and any(w.grad is not None for w in self.param_groups[0]["params"]):
            raise UsageError(
                "step() was given no closure, and ZOOptimizer uses no gradients of backward(): call "
                "optimizer.step(lambda: loss_of(model, batch)), or accumulate(closure) before step()"
            )
        with self._whole_if_raised():
            if closure is not None:
                self.accumulate(closure, hold=True)
            loss = self._step() if self._parts else None
        if not self.perturbation.begun:
            self.perturbation.restore()
        return loss

    @contextmanager
    def _whole_if_raised(self) -> Iterator[None]:
        """An exception inside leaves the weights where they belong."""
        try:
            yield
        except BaseException:
            self.perturbation.restore()
            self._merge()
            raise

    def _merge(self) -> None:
        """Bring matrices up to date."""
        moves = self.backlog.take()
        if moves:
            self.space.move_(moves, matrices=True)

    def _step(self) -> float:
        directions = self._directions(self.steps)
        parts, self._parts = self._parts, []
        points, asked = len(self.estimator.population(directions)), len((self._request or Request()).points)
        totals = total(parts, points, asked, self.spread, split=self.governor is not None)
        estimate = self.estimator.estimate(directions, totals.whole)
        group = self.param_groups[0]
        lr, flags = self._governed(float(group["lr"]), estimate, totals)
        if self.sphere is not None:
            estimate = self.sphere.spent(estimate)
        step = Step(
            index=self.steps,
            estimate=estimate,
            lr=lr,
            weight_decay=float(group["weight_decay"]),
            flags=flags if estimate.finite else flags | Flag.NONFINITE,
            evaluations=max(len(parts), self.perturbation.cycles),  # more: begun, given up and taken again
        )
        self.apply(step, ahead=self.ahead and not self.watched)
        return step.estimate.loss

    @property
    def watched(self) -> bool:
        """Whether an observer may read a weight after the step to come: its `reads_weights`, by step or for good, tells."""
        told = (getattr(seen, "reads_weights", True) for seen in self.observers)
        return any(reads(self.steps) if callable(reads) else reads for reads in told)

    def _governed(self, lr: float, estimate: Estimate, totals: Totals) -> tuple[float, Flag]:
        """The learning rate that the governor leaves of `lr`, and what it did."""
        self._request = None
        if self.governor is None:
            return lr, Flag.NONE
        directions = estimate.directions
        q, points = len(directions), self.estimator.population(directions)
        slopes = [self.estimator.slopes(losses) for losses in (totals.whole, *(totals.halves or ()))]
        eps = points[0][0].scale if points[0] else 0.0
        plain = tuple(p / q for p in slopes[0])
        antithetic = tuple((Term(z, sign * eps),) for z in directions for sign in (1.0, -1.0)) == points
        evidence = Evidence(
            step=self.steps,
            lr=lr,
            loss=estimate.loss,
            slopes=slopes[0],
            halves=(slopes[1], slopes[2]) if totals.halves else None,
            pairs=tuple(zip(totals.whole[: 2 * q : 2], totals.whole[1 : 2 * q : 2], strict=True)) if antithetic else (),
            eps=eps,
            points=tuple(totals.asked),
            forwards=len(points),
            block=self.source.block(self.steps) or 0,
            spent=() if estimate.coefficients == plain else tuple(q * c for c in estimate.coefficients),
        )
        decision = self.governor.decide(evidence)
        flags = Flag.CAPPED if decision.capped else Flag.NONE
        return decision.lr, flags | (Flag.GUARDED if decision.refused else Flag.NONE)

    def discard(self) -> None:
        """Forget the losses taken since the last step.

        What in-place perturbation left in the weights for them (restoring rounds) becomes a step that moves nothing, so
        that the log tells of it.
        """
        self.catch_up()
        self.perturbation.restore()
        self._merge()
        self._parts, self._request = [], None
        cycles = self.perturbation.cycles
        if cycles:
            nothing = Estimate(self._directions(self.steps), (0.0,) * self.directions, math.nan)
            self.apply(Step(self.steps, nothing, 0.0, flags=Flag.INTERRUPTED, evaluations=cycles))

    def settle(self) -> None:
        """Bring the weights back where `ahead` left them at the next step's first point.

        In place the way there and back has rounded, so a step that moves nothing goes into the log: rather do not set `ahead`
        then. In lockstep the update that was left for the next losses is made now, with `merge_every` all that waited.
        """
        self.catch_up()
        if self.perturbation.begun:
            self.discard()
        self._merge()

    @property
    def settled(self) -> bool:
        """Whether the weights are where they belong."""
        return not (self.perturbation.begun or self.perturbation.cycles or self.backlog)

    def apply(self, step: Step, *, ahead: bool = False) -> None:
        """Spend one step, and with `ahead` begin the way of the next one: the only path from a Step to the weights."""
        before, self.space.torn = self.space.torn, True
        if Flag.MERGED in step.flags:  # a step that was logged
            self._merge()
        if self.backlog.keeps and not self.backlog:
            step = replace(step, flags=step.flags | Flag.MERGED)
        move, self.rule_state = spend(self.rule, self.rule_state, step)
        if self.backlog.keeps:
            move = self._leave(move, ahead)
        back = self.perturbation.take_back()
        spent = back if move is None else [*back, move]
        first = self.perturbation.begin(lambda: self._population(step.index + 1)) if ahead else []
        now = self.perturbation.postpone([*spent, *first]) if ahead else [*spent, *first]
        if now:
            self.space.move_(now)
        self.perturbation.cycles = int(bool(first))
        self.told(step)
        self.space.torn = before

    def told(self, step: Step) -> None:
        """The weights have taken this step: count it, and tell the observers."""
        self.steps = step.index + 1
        self.skipped += step.flags.skipped
        self.last = step
        for observer in self.observers:
            observer(step)

    def catch_up(self) -> None:
        """Wait for the captured steps that are under way (`zoft.captured`), and be told of them."""
        if self.unfinished is not None:
            self.unfinished()

    def _leave(self, move: Move | None, ahead: bool) -> None:
        """Move vectors, and matrices where it is time or nobody may wait for them."""
        if move is not None:
            self.space.move_([move], matrices=False)
            self.backlog.add(move)
        if self.backlog.due or not ahead:
            self._merge()

    def _settings(self) -> dict[str, Any]:
        """All that a run must keep when it is resumed, to be the same run."""
        return {
            "seed": self.source.seed,
            "distribution": self.source.law,
            "form": self.source.form.plain() if self.source.form else [],
            "blocks": self.source.blocks.plain() if self.source.blocks else [],
            "directions": self.schedule.plain(),
            "perturbation": self.perturbation.name,
            "panels": "lockstep" if isinstance(self.perturbation, Lockstep) else "jit",
            "estimator": self.estimator.settings(),
            "rule": self.rule.settings(),
            "merge_every": self.backlog.every,
            "weight_rounding": self.space.rounding.value,  # `auto` may choose another one on another machine
        }

    def state_dict(self) -> dict[str, Any]:
        """Torch's state plus the step counter, the rule's scalars and residual bits; plain values and tensors only."""
        self.settle()
        self.perturbation.restore()
        state = super().state_dict()
        state["zoft"] = {
            "steps": self.steps,
            "skipped": self.skipped,
            **self._settings(),
            "rule_state": self.rule_state,
            "residuals": None if self.light else dict(self.space.residuals()),
            "momenta": None if self.light else dict(self.space.momenta),
            "thresholds": dict(self.space.thresholds),
        }
        if self.governor is not None:
            state["zoft"]["governor"] = self.governor.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken.

        Raises:
            UsageError: it belongs to another optimizer, or to other settings than this one's, so continuing would not be exact.
        """
        self.catch_up()
        state_dict = dict(state_dict)
        mine = state_dict.pop("zoft", None)
        if mine is None:
            raise UsageError(
                "the checkpoint's optimizer state was not written by zoft; start a new run from its weights"
            )
        for key, value in self._settings().items():
            theirs = mine.get(key, BEFORE.get(key))
            if theirs != value:
                chosen = "; auto goes by the memory that is free: set it" if key == "weight_rounding" else ""
                raise UsageError(f"the checkpoint was trained with {key} {theirs!r}, this run has {value!r}{chosen}")
        super().load_state_dict(state_dict)
        self.perturbation.take_back()  # from weights that are others now
        self.backlog.take()
        self._parts, self._request, self.perturbation.cycles = [], None, 0  # of a step from other weights
        self.steps, self.skipped = mine["steps"], mine["skipped"]
        self.rule_state = mine["rule_state"]
        self.space.load_thresholds(mine.get("thresholds", {}))
        if mine["residuals"] is not None:
            self.space.load_residuals(mine["residuals"])
            self.space.momenta.load(mine["momenta"])
        if self.governor is not None and "governor" in mine:
            self.governor.load_state_dict(mine["governor"])


def _free_on_all(weights: Sequence[torch.Tensor]) -> int | None:
    """Bytes that are free beside 16-bit weights on the rank with the fewest, so that all choose alike; None: one process."""
    if world_size() == 1 or not any(weight.element_size() == 2 for weight in weights):
        return None
    return int(min(free for (free,) in gather([float(free_bytes(weights[0].device))])))
