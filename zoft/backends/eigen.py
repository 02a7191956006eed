"""Small symmetric matrices, to the same bits on every machine: no vendor's library, one order of sums."""

from __future__ import annotations

import numpy as np

SWEEPS = 40  # Jacobi's method converges quadratically: about 6 do


def eigen(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues [n] and orthonormal eigenvectors [n, n] (columns) of a symmetric float64 matrix, in no order.

    Jacobi's method: n / 2 disjoint rotations at once, element by element, through all pairs in a round robin, until nothing off
    the diagonal is above its rounding. (Brent & Luk 1985.)

    >>> values, vectors = eigen(np.array([[2.0, 1.0], [1.0, 2.0]]))
    >>> sorted(np.round(values, 12).tolist()), bool(np.allclose(vectors * values @ vectors.T, [[2.0, 1.0], [1.0, 2.0]]))
    ([1.0, 3.0], True)
    """
    size = len(matrix)
    n = size + size % 2  # a player of zeros makes the number even
    a, v, order = np.zeros((n, n)), np.eye(n), np.arange(n)
    a[:size, :size] = matrix
    for _ in range(SWEEPS):
        rest = a - np.diag(np.diag(a))
        if np.abs(rest).max(initial=0.0) <= 1e-16 * np.abs(np.diag(a)).max(initial=0.0):
            break
        for _ in range(n - 1):
            p, q = order[: n // 2], order[n // 2 :][::-1]
            cosine, sine = _rotations(a[p, p], a[q, q], a[p, q])
            rows_p, rows_q = a[p], a[q]
            a[p], a[q] = (
                cosine[:, None] * rows_p - sine[:, None] * rows_q,
                sine[:, None] * rows_p + cosine[:, None] * rows_q,
            )
            for m in (a, v):
                columns_p, columns_q = m[:, p], m[:, q]
                m[:, p], m[:, q] = cosine * columns_p - sine * columns_q, sine * columns_p + cosine * columns_q
            order = np.concatenate([order[:1], order[-1:], order[1:-1]])
    return np.diag(a)[:size].copy(), v[:size, :size]


def _rotations(pp: np.ndarray, qq: np.ndarray, pq: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines of the smaller angles that make a_pq vanish."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        theta = (qq - pp) / (2.0 * pq)
        tangent = np.where(theta < 0.0, -1.0, 1.0) / (np.abs(theta) + np.sqrt(1.0 + theta * theta))
    tangent = np.where(pq == 0.0, 0.0, tangent)
    cosine = 1.0 / np.sqrt(1.0 + tangent * tangent)
    return cosine, tangent * cosine


def times(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The matrix product, added up in order."""
    found = np.zeros((a.shape[0], b.shape[1]))
    for k in range(a.shape[1]):
        found = found + a[:, k, None] * b[None, k, :]
    return found
