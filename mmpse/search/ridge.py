"""Ridge regression whose penalty leave-one-out cross-validation chooses, and its refits."""

from __future__ import annotations

import numpy as np

PENALTIES = 2.0 ** np.arange(-12, 13)  # times the mean square of the terms' principal components
TINY = 1e-9  # what keeps a refit to a few distinct rows solvable


class Ridge:
    """``y ~ fixed @ a + terms @ b``, of which only ``b`` is drawn to zero.

    Args:
        fixed: Terms that are not penalised, the constant among them, ``(n, k)``.
        terms: Penalised terms, ``(n, p)``. They may be more than the rows, constant, or depend on
            each other.
        y: What is predicted, ``(n,)``.
        weights: Of the rows, ``(n,)``, none negative and not all zero.

    Attributes:
        penalty: That of ``b @ b``; errors are squared, with weights of mean one.
        errors: Squared error in predicting each row from the others, times its weight, ``(n,)``.
    """

    def __init__(
        self, fixed: np.ndarray, terms: np.ndarray, y: np.ndarray, weights: np.ndarray
    ) -> None:
        root = np.sqrt(weights / weights.mean())
        self._scaled = root[:, None] * fixed
        basis, _ = np.linalg.qr(self._scaled)
        # the same model with terms that are orthogonal to the fixed ones, in few components
        self._along_fixed = np.linalg.lstsq(self._scaled, root[:, None] * terms, rcond=None)[0]
        terms = terms - fixed @ self._along_fixed
        left, values, self._axes = np.linalg.svd(root[:, None] * terms, full_matrices=False)
        y_left = root * y - basis @ (basis.T @ (root * y))

        square = values**2
        penalties = PENALTIES * (square.mean() or 1.0)
        shrink = square / (square + penalties[:, None])  # (penalties, components)
        residual = y_left - (shrink * (left.T @ y_left)) @ left.T
        leverage = (basis**2).sum(axis=1) + shrink @ (left**2).T
        errors = (residual / np.maximum(1 - leverage, TINY)) ** 2
        best = int(errors.mean(axis=1).argmin())
        self.penalty, self.errors = float(penalties[best]), errors[best]
        self._y, self._fixed = y, fixed.shape[1]
        self._design = np.concatenate([fixed, terms @ self._axes.T], axis=1)

    def fit(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients ``a`` (fits, k) and ``b`` (fits, p) for weights of the rows (fits, n)."""
        design, count = self._design, self._design.shape[1]
        penalty = np.diag(np.where(np.arange(count) < self._fixed, TINY, self.penalty))
        weights = weights / weights.mean(axis=1, keepdims=True)
        squares = np.stack([(design.T * row) @ design for row in weights]) + penalty
        solved = np.linalg.solve(squares, ((weights * self._y) @ design)[:, :, None])[:, :, 0]
        b = solved[:, self._fixed :] @ self._axes
        return solved[:, : self._fixed] - b @ self._along_fixed.T, b
