"""Orthogonal factors of gradients of low rank, through their thin factors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from zoft.backends.base import Backend, Point, Rounding, Target, Term, wide
from zoft.backends.eigen import eigen, times
from zoft.backends.fold import fold
from zoft.backends.reference import add_
from zoft.backends.shaped import ShapedBackend
from zoft.backends.tensor_moves import TensorMove, drawn
from zoft.directions import Direction, Window
from zoft.directions.low_rank import column_sums, left_factor, product, right_factor, right_of

NOTHING = 1e-12  # share of a Gram matrix's largest eigenvalue (1e-6 of a singular value) up to which one counts as zero


@dataclass(frozen=True, slots=True)
class PolarMove(TensorMove):
    """x <- round(a x + factor sqrt(N K / R) polar(M)),  M the sum of the terms over the parameter [N, K], R its rank.

    polar(M) = sum of u_i v_i' over the singular values of M that are not zero; for a vector M / ||M||. The mean square of
    an element of what is added is factor^2. Nothing as large as M is made: M = A B' with A [N, R], B [K, R], and polar(M) =
    A X B' with X [R, R] in float64 (`core`). Sums over N and K by halves, all others in order: the same bits everywhere.
    """

    def spend_(self, backend: Backend, target: Target, buffers: Sequence[torch.Tensor], rounding: Rounding) -> None:
        if not target.weight.numel():
            return
        part, dtype = target.window, wide(target.weight)
        whole = Window(part.stream, 0, part.total_rows, 0, part.total_columns, part.total_columns, part.total_rows)
        if part.total_columns == 1:
            left, right = self._vector(backend, whole, target.weight.device)
        else:
            left, right = self._matrix(backend, whole, target.weight.device)
        left = left[part.row : part.row + part.rows].to(dtype)
        right = right[part.column : part.column + part.columns].to(dtype)
        add_(target, lambda rows: product(left[rows], right), self, rounding)

    def _vector(self, backend: Backend, whole: Window, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        m = drawn(backend, self.terms, whole, torch.empty(0, dtype=torch.float32, device=device)).to(torch.float64)
        norm = math.sqrt(float(fold((m * m).reshape(-1))))
        scale = self.factor * math.sqrt(whole.rows) / norm if norm > 0.0 else 0.0
        return m * scale, torch.ones(1, 1, dtype=torch.float64, device=device)

    def _matrix(self, backend: Backend, whole: Window, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        a, b = thin_sum(self.terms, whole, device, backend)
        x, rank = core(gram(a), gram(b))
        scale = self.factor * math.sqrt(whole.rows * whole.columns / rank) if rank else 0.0
        return product(a, torch.from_numpy(scale * x.T).to(device)), b


def thin_sum(terms: Point, whole: Window, device: torch.device, backend: Backend) -> tuple[torch.Tensor, torch.Tensor]:
    """A [N, R] and B [K, R], float64, with A B' = the sum of the terms; those that share a right factor share columns."""
    plain = backend.inner if isinstance(backend, ShapedBackend) else backend
    single = torch.empty(0, dtype=torch.float32, device=device)

    def draw(direction: Direction, window: Window, device: torch.device) -> torch.Tensor:
        return drawn(plain, (Term(direction, 1.0),), window, single)

    left: dict[Direction, torch.Tensor] = {}
    right: dict[Direction, torch.Tensor] = {}
    for term in terms:
        key = right_of(term.direction)
        a = left_factor(term.direction, whole, device, draw).to(torch.float64) * term.scale
        left[key] = left[key] + a if key in left else a
        if key not in right:
            right[key] = right_factor(term.direction, whole, device).to(torch.float64)
    return torch.cat(list(left.values()), dim=1), torch.cat(list(right.values()), dim=1)


def gram(columns: torch.Tensor) -> np.ndarray:
    """C'C [R, R] of C [N, R] in float64."""
    return torch.stack([column_sums(columns[:, j, None] * columns) for j in range(columns.shape[1])]).cpu().numpy()


def core(gram_a: np.ndarray, gram_b: np.ndarray) -> tuple[np.ndarray, int]:
    """X [R, R] with polar(A B') = A X B', from A'A and B'B; and the rank of A B'.

        B'B = E D E',   C = A E D^1/2,   C'C = F T F',   X = E D^1/2 F T^-1/2 F' D^-1/2 E'

    since B E D^-1/2 has orthonormal columns and A B' is C times their transpose; zeros of D and T are left out.

    >>> core(np.array([[4.0]]), np.array([[9.0]]))
    (array([[0.16666667]]), 1)
    """
    d, e = _positive(gram_b)
    root = e * np.sqrt(d)
    t, f = _positive(times(times(root.T, gram_a), root))
    middle = times(f / np.sqrt(t), f.T)
    return times(times(root, middle), (e / np.sqrt(d)).T), len(t)


def _positive(symmetric: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues that are not zero, and their vectors."""
    values, vectors = eigen(symmetric)
    kept = values > NOTHING * values.max(initial=0.0)
    return values[kept], vectors[:, kept]
