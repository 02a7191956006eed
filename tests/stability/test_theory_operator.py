"""Closed forms against the exact second-moment operator of the iteration, built here from the update rules alone.

The state is (w, m). One step maps the 2d x 2d matrix of second moments linearly; the largest eigenvalue of that map
says whether the moments stay bounded. No closed form of the package is used to build it, only the fourth moments
(E7), and those are checked against exact quadrature in test_theory_moments.py.
"""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from zoft.stability.theory import (
    Distribution,
    adam_critical_lr,
    band,
    critical_lr,
    first_order_critical_lr,
    fourth_moment,
)

Matrix = NDArray[np.float64]
TIGHT = 1e-6  # relative distance on either side of the threshold at which the operator must agree


def gaussian(a: Matrix) -> Matrix:
    """E[u u' A u u'] for a stack of symmetric A [n, d, d], u ~ N(0, I)."""
    return 2.0 * a + np.trace(a, axis1=1, axis2=2)[:, None, None] * np.eye(a.shape[1])


def sphere(a: Matrix) -> Matrix:
    """The same for u uniform on the sphere of radius sqrt(d)."""
    d = a.shape[1]
    return gaussian(a) * d / (d + 2)


def rademacher(a: Matrix) -> Matrix:
    """The same for random signs: the diagonal is counted three times too often by the Gaussian formula."""
    return gaussian(a) - 2.0 * a * np.eye(a.shape[1])


def spectral_radius(
    h: Matrix,
    lr: float,
    fourth: Callable[[Matrix], Matrix] = gaussian,
    momentum: float = 0.0,
    directions: int = 1,
    ema: bool = False,
    inverse_preconditioner: Matrix | None = None,
) -> float:
    """Largest modulus among the eigenvalues of M -> E[B M B'] on symmetric M, with (w, m) <- B (w, m)."""
    d = len(h)
    rows, columns = np.triu_indices(2 * d)
    basis = np.zeros((len(rows), 2 * d, 2 * d))
    basis[np.arange(len(rows)), rows, columns] = 1.0
    basis[np.arange(len(rows)), columns, rows] = 1.0
    ww, wm, mm = basis[:, :d, :d], basis[:, :d, d:], basis[:, d:, d:]
    new = 1.0 - momentum if ema else 1.0
    p = np.eye(d) if inverse_preconditioner is None else inverse_preconditioner
    gg = h @ ww @ h  # E[g g'], g = H w
    estimate = fourth(gg) / directions + (1.0 - 1.0 / directions) * gg
    gm = h @ wm  # E[g m']
    mm_next = momentum**2 * mm + momentum * new * (gm + gm.transpose(0, 2, 1)) + new**2 * estimate
    w_mnext = momentum * wm + new * ww @ h  # E[w m+']
    wm_next = w_mnext - lr * p @ mm_next
    ww_next = ww - lr * (w_mnext @ p + p @ w_mnext.transpose(0, 2, 1)) + lr**2 * p @ mm_next @ p
    image = np.zeros_like(basis)
    image[:, :d, :d], image[:, :d, d:] = ww_next, wm_next
    image[:, d:, :d], image[:, d:, d:] = wm_next.transpose(0, 2, 1), mm_next
    return float(np.abs(np.linalg.eigvals(image[:, rows, columns].T)).max())


def random_hessian(d: int, seed: int) -> Matrix:
    generator = np.random.default_rng(seed)
    factor = generator.standard_normal((d, d + 1))
    return factor @ factor.T / d + 0.05 * np.eye(d)


def assert_threshold(radius_at: Callable[[float], float], lr: float) -> None:
    assert radius_at(lr * (1.0 - TIGHT)) < 1.0 < radius_at(lr * (1.0 + TIGHT))
    assert radius_at(0.5 * lr) < 1.0 < radius_at(1.5 * lr)


@pytest.mark.parametrize("directions", [1, 2, 8])
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("d", [1, 2, 4, 8])
def test_gaussian_threshold_is_where_the_operator_crosses_one(d: int, momentum: float, directions: int) -> None:
    h = random_hessian(d, seed=d)
    lr = critical_lr(np.linalg.eigvalsh(h).tolist(), momentum=momentum, directions=directions)
    assert_threshold(lambda x: spectral_radius(h, x, gaussian, momentum, directions), lr)


@pytest.mark.parametrize("directions", [1, 2, 8])
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("d", [1, 3, 6])
def test_sphere_threshold(d: int, momentum: float, directions: int) -> None:
    h = random_hessian(d, seed=10 + d)
    lr = critical_lr(
        np.linalg.eigvalsh(h).tolist(), momentum=momentum, directions=directions, distribution="sphere", dimension=d
    )
    assert_threshold(lambda x: spectral_radius(h, x, sphere, momentum, directions), lr)


@pytest.mark.parametrize("directions", [1, 2, 8])
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("d", [1, 2, 4, 8])
def test_rademacher_threshold_on_diagonal_h(d: int, momentum: float, directions: int) -> None:
    eigenvalues = np.random.default_rng(20 + d).uniform(0.05, 2.0, d)
    lr = critical_lr(eigenvalues.tolist(), momentum=momentum, directions=directions, distribution="rademacher_diagonal")
    assert_threshold(lambda x: spectral_radius(np.diag(eigenvalues), x, rademacher, momentum, directions), lr)


@pytest.mark.parametrize("directions", [1, 8])
@pytest.mark.parametrize("momentum", [0.5, 0.9])
def test_ema_momentum(momentum: float, directions: int) -> None:
    h = random_hessian(5, seed=30)
    lr = critical_lr(np.linalg.eigvalsh(h).tolist(), momentum=momentum, directions=directions, ema=True)
    assert_threshold(lambda x: spectral_radius(h, x, gaussian, momentum, directions, ema=True), lr)


@pytest.mark.parametrize("directions", [1, 2, 8])
@pytest.mark.parametrize("beta1", [0.0, 0.9])
def test_frozen_adam_with_a_commuting_preconditioner(beta1: float, directions: int) -> None:
    eigenvalues, axes = np.linalg.eigh(random_hessian(5, seed=40))
    scales = np.random.default_rng(41).uniform(0.2, 5.0, 5)
    h, inverse = (axes * eigenvalues) @ axes.T, (axes / scales) @ axes.T
    lr = adam_critical_lr(eigenvalues.tolist(), scales.tolist(), beta1, directions)
    assert_threshold(
        lambda x: spectral_radius(h, x, gaussian, beta1, directions, ema=True, inverse_preconditioner=inverse), lr
    )


def test_scalar_adam_is_a_rescaled_ema_momentum() -> None:
    h = random_hessian(4, seed=42)
    lr = adam_critical_lr(np.linalg.eigvalsh(h).tolist(), 3.0, 0.9)
    inverse = np.eye(4) / 3.0
    assert_threshold(lambda x: spectral_radius(h, x, momentum=0.9, ema=True, inverse_preconditioner=inverse), lr)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_first_order_threshold(momentum: float) -> None:
    h = random_hessian(4, seed=50)
    lr = first_order_critical_lr(float(np.linalg.eigvalsh(h)[-1]), momentum)
    assert_threshold(lambda x: spectral_radius(h, x, lambda a: a, momentum), lr)


@pytest.mark.parametrize("fourth", [rademacher, sphere])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("directions", [1, 4])
def test_what_is_stable_for_gaussian_is_stable_for_rademacher_and_sphere_in_any_basis(
    fourth: Callable[[Matrix], Matrix], momentum: float, directions: int
) -> None:
    """(14): no basis makes signs or the sphere less stable than Gaussian directions."""
    for seed in range(12):
        h = random_hessian(2 + seed % 4, seed)
        lr = critical_lr(np.linalg.eigvalsh(h).tolist(), momentum=momentum, directions=directions)
        assert spectral_radius(h, lr, fourth, momentum, directions) <= 1.0 + 1e-9


def test_with_momentum_the_gaussian_right_edge_does_not_bound_rademacher() -> None:
    """Why `right_edge` may not be called unstable for Rademacher directions with momentum."""
    eigenvalues = np.array([2.0, 1.0, 0.5])
    high = band(3.5, 2.0, momentum=0.9)[1]
    assert spectral_radius(np.diag(eigenvalues), 1.1 * high, gaussian, 0.9) > 1.0
    assert spectral_radius(np.diag(eigenvalues), 1.1 * high, rademacher, 0.9) < 1.0


def test_minibatches_lower_the_edge() -> None:
    """(16): at an interpolating minimum nothing from 2 q / Tr(H^-1 E_b[H_b^2]) on is stable; below 2 q / Tr(H)."""
    d, identity = 4, np.eye(4)
    basis = np.eye(d * d).reshape(-1, d, d)
    for seed, directions in ((0, 1), (1, 1), (2, 4)):
        batches = [random_hessian(d, 100 * seed + b) for b in range(5)]
        h = np.mean(batches, axis=0)
        edge = 2.0 * directions / np.trace(np.linalg.solve(h, np.mean([b @ b for b in batches], axis=0)))
        assert edge < 2.0 * directions / np.trace(h)
        for lr in (edge, 1.5 * edge):
            noise = np.zeros_like(basis)
            for b in batches:
                gg = b @ basis @ b
                noise += (
                    gg * (1 + 1 / directions) + np.trace(gg, axis1=1, axis2=2)[:, None, None] / directions * identity
                ) / 5
            image = basis - lr * (h @ basis + basis @ h) + lr**2 * noise
            assert np.abs(np.linalg.eigvals(image.reshape(d * d, d * d).T)).max() >= 1.0


@pytest.mark.parametrize(
    ("name", "operator"), [("gaussian", gaussian), ("sphere", sphere), ("rademacher_diagonal", rademacher)]
)
def test_fourth_moments_are_the_diagonal_of_these_operators(
    name: Distribution, operator: Callable[[Matrix], Matrix]
) -> None:
    a = np.random.default_rng(60).standard_normal((1, 5, 5))
    a = a + a.transpose(0, 2, 1)
    own, shared = fourth_moment(name, 5)
    expected = own * np.diagonal(a[0]) + shared * np.trace(a[0])
    np.testing.assert_allclose(np.diagonal(operator(a)[0]), expected, rtol=1e-13)
