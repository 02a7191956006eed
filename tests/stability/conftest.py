import math

import pytest

from zoft.governor import Evidence
from zoft.stability import StabilityMonitor, StabilitySettings, Surroundings


class Landscape:
    """Answers a monitor as a quadratic with trace T would along any direction: c = T, slopes as given."""

    def __init__(self, monitor: StabilityMonitor, trace: float = 10.0, loss: float = 1.0) -> None:
        self.monitor, self.trace, self.loss, self.step = monitor, trace, loss, 0

    def __call__(
        self, lr: float, slope: float = 1.0, halves: tuple[float, float] | None = None, loss: float | None = None
    ):
        """One step; returns the decision."""
        eps, centre = self.monitor.around.eps, self.loss if loss is None else loss
        points = []
        for point in self.monitor.request(self.step).points:
            scale = math.fsum(s for _, s in point)
            points.append(centre + slope * scale + 0.5 * self.trace * scale**2)
        q = self.monitor.around.directions
        up, down = (centre + s * slope * eps + 0.5 * self.trace * eps**2 for s in (1.0, -1.0))
        evidence = Evidence(
            step=self.step, lr=lr, loss=centre, slopes=(slope,) * q,
            halves=None if halves is None else ((halves[0],) * q, (halves[1],) * q),
            pairs=((up, down),) * q, eps=eps, points=tuple(points),
        )  # fmt: skip
        self.step += 1
        return self.monitor.decide(evidence)


@pytest.fixture
def landscape():
    """Builds a monitor with the given settings in front of a landscape."""

    def build(
        trace: float = 10.0, rule: dict | None = None, directions: int = 1, fraction: float = 0.0, norm: float = 50.0,
        base_lr: float = 1.0, tail: float | None = None, **settings,
    ):  # fmt: skip
        settings = {"stability_loss_noise": 0.0, "stability_drift": None, "stability_every": 1, **settings}
        around = Surroundings(
            rule or {"name": "sgd"},
            directions,
            eps=2.0**-4,
            elements=100,
            weights_norm=norm,
            batch_fraction=fraction,
            base_lr=base_lr,
            tail=tail,
        )
        return Landscape(StabilityMonitor(StabilitySettings(**settings), around), trace)

    return build
