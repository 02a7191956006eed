"""Curvature at one place, from losses only: what `zoft probe` measures and what tests compare with exact products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from zoft.backends import Term
from zoft.directions import Direction, DirectionSource, Distribution, Form, draw
from zoft.errors import UsageError
from zoft.perturb import Perturbation, ReadOnly, evaluation_mode
from zoft.same_draws import SameDraws
from zoft.space import ParameterSpace
from zoft.stability.curvature import FIRST_PROBES, FLOOR_SHARE, LARGEST_RADIUS, rounding_noise
from zoft.stability.reading import Reading, frobenius_squared_reading, second_difference, trace_reading
from zoft.stability.theory import noise_floor

Loss = Callable[[], "torch.Tensor | float"]


@dataclass(frozen=True)
class Probes:
    """The second differences c along some directions, around one centre loss."""

    values: tuple[float, ...]  # [N] loss / length^2
    centre: float
    radius: float
    noise: float  # delta [loss]

    @property
    def trace(self) -> Reading:
        """Tr(H), (P2); for any distribution of the directions."""
        return trace_reading(self.values, self.radius, self.noise, shared_centre=True)

    @property
    def frobenius_squared(self) -> Reading:
        """||H||_F^2, (P6); for Gaussian directions."""
        return frobenius_squared_reading(self.values, self.radius, self.noise, shared_centre=True)


class Prober:
    """Takes losses around the weights of `model`, read-only. `loss` is called once per point, without a graph, and with
    torch's generators in the state in which they were when the prober was made.

    >>> model = torch.nn.Linear(3, 1, bias=False)
    >>> prober = Prober(model, lambda: 2.0 * model(torch.eye(3)).square().sum())
    >>> round(prober.probe(prober.directions(2), radius=0.125, noise=0.0).trace.value, 3)  # H = 4 I
    12.0
    """

    def __init__(
        self, model: torch.nn.Module, loss: Loss, seed: int = 0, backend: str = "auto", form: Form | None = None
    ) -> None:
        """
        Args:
            form: of the directions; with a mask it is the curvature of the weights that move.
        """
        self.model = model
        self._loss = SameDraws(lambda: float(loss()), {weight.device for weight in model.parameters()})
        self.source = DirectionSource(seed, form=form)
        self.space = ParameterSpace(model, backend_name=backend, shaped=self.source.shaped, small=self.source.small)
        self.forwards = 0  # losses taken so far
        self._view: Perturbation = ReadOnly(self.space)

    def directions(
        self, count: int, distribution: Distribution = Distribution.RADEMACHER, step: int = 0
    ) -> tuple[Direction, ...]:
        """Seeded probe directions; another `step` gives others."""
        return self.source.probes_at(step, count, distribution)

    def losses(self, points: Sequence[tuple[Term, ...]]) -> list[float]:
        """The loss at each point w + sum_k s_k z_k."""
        self.forwards += len(points)
        with evaluation_mode(self.model):
            losses = self._view.losses(points, self._loss)
        self._loss.leave()
        return losses

    def point(self, direction: Direction, scale: float) -> tuple[Term, ...]:
        """w + scale z, as `losses` takes it."""
        return (Term(direction, scale),)

    def probe(self, directions: Sequence[Direction], radius: float, noise: float) -> Probes:
        """Second differences along `directions`: 1 + 2 N losses."""
        centre, *rest = self.losses([(), *((Term(z, s * radius),) for z in directions for s in (1.0, -1.0))])
        pairs = list(zip(rest[::2], rest[1::2], strict=True))
        values = tuple(second_difference(plus, minus, centre, radius) for plus, minus in pairs)
        return Probes(values, centre, radius, noise)

    def settle(self, eps: float) -> tuple[float, float]:
        """(radius, delta): the measured rounding noise (P14), and the smallest radius >= eps at which it hardly counts.

        Raises:
            UsageError: nothing but rounding can be seen, up to 64 eps.
        """
        directions, radius = self.directions(FIRST_PROBES, step=1), eps / 2.0
        while radius <= LARGEST_RADIUS * eps:
            wide = self.probe(directions, radius, 0.0).values
            near = self.probe(directions, radius / 2.0, 0.0).values
            noise = rounding_noise(wide, near, radius)
            reading = trace_reading(wide, radius, noise, shared_centre=True)
            if reading.finite and abs(reading.value) > 3.0 * reading.noise_floor:
                least = (noise_floor(noise, 1.0) / (FLOOR_SHARE * abs(reading.value))) ** 0.5
                return max(eps, least), noise
            radius *= 2.0
        raise UsageError(
            f"no curvature rises above the rounding noise of the loss, up to a radius of {LARGEST_RADIUS * eps:g}; "
            "use float32 weights, or a larger batch"
        )

    def lambda_max_below(self, directions: Sequence[Direction], radius: float) -> float:
        """A lower bound of l_1 by polarisation in the span of k directions, (P8): 1 + 2 k + 2 k (k - 1) losses.

        B_ij = z_i' H z_j = (c(z_i + z_j) - c(z_i - z_j)) / 4,   G_ij = z_i' z_j,   top eigenvalue of (B, G)

        Random directions see little of a single eigenvector: in d dimensions expect about Tr / d times the spread of
        k draws, so this bound is a check and not an estimate (docs/experiments.md). Rounding is not taken off.
        """
        count = len(directions)
        pairs = [(i, j) for i in range(count) for j in range(i)]
        points: list[tuple[Term, ...]] = [()]
        points += [(Term(z, s * radius),) for z in directions for s in (1.0, -1.0)]
        for i, j in pairs:
            a, b = directions[i], directions[j]
            points += [(Term(a, s * radius), Term(b, s * t * radius)) for t in (1.0, -1.0) for s in (1.0, -1.0)]
        centre, *rest = self.losses(points)
        curvatures = [second_difference(rest[k], rest[k + 1], centre, radius) for k in range(0, len(rest), 2)]
        forms = torch.zeros(count, count, dtype=torch.float64)
        for i in range(count):
            forms[i, i] = curvatures[i]
        for (i, j), k in zip(pairs, range(count, len(curvatures), 2), strict=True):
            forms[i, j] = forms[j, i] = (curvatures[k] - curvatures[k + 1]) / 4.0
        inverse = torch.linalg.inv(torch.linalg.cholesky(self._gram(directions)))
        return float(torch.linalg.eigvalsh(inverse @ forms @ inverse.T)[-1])

    def _gram(self, directions: Sequence[Direction]) -> torch.Tensor:
        """z_i' z_j over all trainable elements, [k, k] float64."""
        gram = torch.zeros(len(directions), len(directions), dtype=torch.float64)
        for slot in self.space.slots:
            drawn = [draw(z, slot.window, slot.weight.device).reshape(-1).double() for z in directions]
            stacked = torch.stack(drawn)
            gram += (stacked @ stacked.T).cpu()
        return gram
