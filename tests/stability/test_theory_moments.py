"""Moments of directions and of probes by exact enumeration: signs, Gauss-Hermite nodes, the icosahedron.

Gauss-Hermite with 5 nodes a coordinate is exact to degree 9, all sign vectors are the whole Rademacher
distribution, and the icosahedron's 12 vertices integrate every polynomial of degree 5 over the sphere in three
dimensions.
"""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from zoft.stability.theory import descent_edge, expected_change, frobenius_squared, smoothing_bias

Points = tuple[NDArray[np.float64], NDArray[np.float64]]  # directions [n, 3], probabilities [n]


def gaussian_points() -> Points:
    nodes, weights = np.polynomial.hermite_e.hermegauss(5)
    u = np.array(list(itertools.product(nodes, repeat=3)))
    return u, np.prod(list(itertools.product(weights / weights.sum(), repeat=3)), axis=1)


def rademacher_points() -> Points:
    return np.array(list(itertools.product([1.0, -1.0], repeat=3))), np.full(8, 1 / 8)


def sphere_points() -> Points:
    golden = (1 + 5**0.5) / 2
    corners = [(0, s, t * golden) for s in (1, -1) for t in (1, -1)]
    u = np.array([np.roll(corner, shift) for corner in corners for shift in range(3)], dtype=float)
    return u * np.sqrt(3) / np.linalg.norm(u, axis=1, keepdims=True), np.full(12, 1 / 12)


POINTS = {"gaussian": gaussian_points(), "rademacher": rademacher_points(), "sphere": sphere_points()}
HESSIAN = np.array([[2.0, 0.7, -0.3], [0.7, 1.0, 0.2], [-0.3, 0.2, 0.5]])
TRACE, FROBENIUS = np.trace(HESSIAN), (HESSIAN**2).sum()


@pytest.mark.parametrize("name", POINTS)
def test_second_moment_is_the_identity(name: str) -> None:
    u, p = POINTS[name]
    np.testing.assert_allclose(np.einsum("n,ni,nj->ij", p, u, u), np.eye(3), atol=1e-13)


@pytest.mark.parametrize("name", POINTS)
def test_fourth_moment(name: str) -> None:
    """(E7), off the diagonal too."""
    u, p = POINTS[name]
    isserlis = 2 * HESSIAN + TRACE * np.eye(3)
    expected = {
        "gaussian": isserlis,
        "rademacher": isserlis - 2 * np.diag(np.diag(HESSIAN)),
        "sphere": isserlis * 3 / 5,
    }[name]
    np.testing.assert_allclose(np.einsum("n,ni,nj,nk,nl,jk->il", p, u, u, u, u, HESSIAN), expected, atol=1e-12)


@pytest.mark.parametrize("name", POINTS)
def test_mean_and_variance_of_a_probe(name: str) -> None:
    """(P2) and (P3)."""
    u, p = POINTS[name]
    c = np.einsum("ni,ij,nj->n", u, HESSIAN, u)
    variance = {
        "gaussian": 2 * FROBENIUS,
        "rademacher": 2 * (FROBENIUS - (np.diag(HESSIAN) ** 2).sum()),
        "sphere": 2 * (3 * FROBENIUS - TRACE**2) / 5,
    }[name]
    assert p @ c == pytest.approx(TRACE, rel=1e-13)
    assert p @ (c - TRACE) ** 2 == pytest.approx(variance, rel=1e-12)
    if name == "gaussian":
        assert frobenius_squared(float(p @ (c - TRACE) ** 2)) == pytest.approx(FROBENIUS, rel=1e-12)


def one_step_change(name: str, lr: float, batches: NDArray[np.float64], directions: int) -> float:
    """E[L(-lr * estimate)] - L(0), L(w) = g'w + w'Hw/2, by enumeration of batches and tuples of directions."""
    u, p = POINTS[name]
    full, total = batches.mean(axis=0), 0.0
    for batch in batches:
        single = u * (u @ batch)[:, None]
        estimate, weight = single, p
        if directions == 2:
            estimate = ((single[:, None] + single[None]) / 2).reshape(-1, 3)
            weight = np.outer(p, p).ravel()
        move = -lr * estimate
        total += float(weight @ (move @ full + 0.5 * np.einsum("ni,ij,nj->n", move, HESSIAN, move))) / len(batches)
    return total


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("name", POINTS)
def test_one_step_identity(name: str, directions: int) -> None:
    """(8) equals the enumeration for Gaussian directions and bounds it for the others; (9) is where it changes sign."""
    batches = np.array([[1.0, -0.5, 0.3], [0.2, 0.9, -0.4], [-0.1, 0.3, 0.8]])
    signal = float((batches.mean(axis=0) ** 2).sum())
    slope = float((batches**2).sum(axis=1).mean())
    rayleigh = float(np.einsum("bi,ij,bj->b", batches, HESSIAN, batches).mean()) / slope
    formula = expected_change(0.3, signal, slope, float(TRACE), rayleigh, directions)
    truth = one_step_change(name, 0.3, batches, directions)
    if name == "gaussian":
        assert truth == pytest.approx(formula, rel=1e-12)
        edge = descent_edge(signal / slope, float(TRACE), rayleigh, directions)
        assert one_step_change(name, edge, batches, directions) == pytest.approx(0.0, abs=1e-14)
        best = one_step_change(name, edge / 2, batches, directions)
        assert best == pytest.approx(-edge / 4 * signal, rel=1e-12)
        assert best < min(one_step_change(name, f * edge, batches, directions) for f in (0.45, 0.55))
    else:
        assert truth < formula


def test_one_sided_differences_add_noise_that_does_not_depend_on_the_weights() -> None:
    """(E9): second moment of the forward difference = that of the two-point estimate plus a constant in mu^2."""
    u, p = POINTS["gaussian"]
    mu = 0.3
    constant = mu**2 / 4 * np.einsum("n,n,ni,nj->ij", p, np.einsum("ni,ij,nj->n", u, HESSIAN, u) ** 2, u, u)
    for w in (np.array([1.0, -2.0, 0.5]), np.array([0.0, 3.0, 1.0])):
        slope = u @ (HESSIAN @ w)
        forward = u * (slope + mu / 2 * np.einsum("ni,ij,nj->n", u, HESSIAN, u))[:, None]
        two_point = u * slope[:, None]
        second = np.einsum("n,ni,nj->ij", p, forward, forward) - np.einsum("n,ni,nj->ij", p, two_point, two_point)
        np.testing.assert_allclose(second, constant, atol=1e-12)
        np.testing.assert_allclose(p @ forward, HESSIAN @ w, atol=1e-12)


@pytest.mark.parametrize("name", POINTS)
def test_two_half_batches_under_one_direction_measure_the_gradient(name: str) -> None:
    """(P12): E[p1 p2] = ||g||^2 over independent halves, E[p^2] = E||g_b||^2."""
    u, p = POINTS[name]
    batches = np.array([[1.0, -0.5, 0.3], [0.2, 0.9, -0.4], [-0.1, 0.3, 0.8]])
    slopes = u @ batches.T  # [directions, batches]
    assert p @ slopes.mean(axis=1) ** 2 == pytest.approx((batches.mean(axis=0) ** 2).sum(), rel=1e-12)
    assert p @ (slopes**2).mean(axis=1) == pytest.approx((batches**2).sum(axis=1).mean(), rel=1e-12)


def test_smoothing_raises_the_loss_at_a_minimum() -> None:
    """(P10)."""
    u, p = POINTS["gaussian"]
    assert p @ np.einsum("ni,ij,nj->n", u, HESSIAN, u) * 0.1**2 / 2 == pytest.approx(smoothing_bias(TRACE, 0.1))
