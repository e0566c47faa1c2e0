"""Ridge regression, its penalty by leave-one-out cross-validation, and refits of it."""

import numpy as np

PENALTIES = 2.0 ** np.arange(-12, 13)  # times the mean square of the terms' principal components
TINY = 1e-9  # of squares: as good as zero


class Ridge:
    """``y ~ fixed @ a + terms @ b``, of which only ``b`` is drawn to zero.

    Args:
        fixed: Terms that are not penalised, the constant among them, ``(n, k)``.
        terms: Penalised terms, ``(n, p)``. They may be more than the rows, constant, or depend on
            each other.
        y: What is predicted, ``(n,)``.
        weights: Of the rows, ``(n,)``, none negative and not all zero.

    Attributes:
        penalties: Penalties of ``b @ b`` that were tried; errors count squared, with weights of
            mean one.
        likelihoods: How well each of them predicts the rows that are left out, in all 1:
            proportional to ``mean squared error ** (-n / 2)``.
        errors: Squared error of each row left out, with the best of them, times its weight.
    """

    def __init__(
        self, fixed: np.ndarray, terms: np.ndarray, y: np.ndarray, weights: np.ndarray
    ) -> None:
        root = np.sqrt(weights / weights.mean())
        scaled = root[:, None] * fixed
        basis, _ = np.linalg.qr(scaled)
        # the same model with terms that are orthogonal to the fixed ones, in few components
        self._along_fixed = np.linalg.lstsq(scaled, root[:, None] * terms, rcond=None)[0]
        whole = np.square(root[:, None] * terms).sum()
        terms = terms - fixed @ self._along_fixed
        left, values, self._axes = np.linalg.svd(root[:, None] * terms, full_matrices=False)
        y_left = root * y - basis @ (basis.T @ (root * y))

        square = values**2
        # where the fixed terms say all, what is left is rounding
        self.penalties = PENALTIES * (max(square.sum(), TINY * whole) / len(square) or 1.0)
        shrink = square / (square + self.penalties[:, None])  # (penalties, components)
        residual = y_left - (shrink * (left.T @ y_left)) @ left.T
        leverage = (basis**2).sum(axis=1) + shrink @ (left**2).T
        errors = (residual / np.maximum(1 - leverage, TINY)) ** 2
        mean = errors.mean(axis=1)
        self.errors = errors[mean.argmin()]
        likelihoods = (mean.min() / np.maximum(mean, np.finfo(float).tiny)) ** (len(y) / 2)
        self.likelihoods = likelihoods / likelihoods.sum()
        self._y, self._fixed = y, fixed.shape[1]
        self._design = np.concatenate([fixed, terms @ self._axes.T], axis=1)

    def fit(self, weights: np.ndarray, penalties: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fits with other weights of the rows ``(fits, n)``, each with its penalty ``(fits,)``.

        Returns:
            ``a`` (fits, k) and ``b`` (fits, p).
        """
        design = self._design
        weights = weights / weights.mean(axis=1, keepdims=True)
        penalised = np.arange(design.shape[1]) >= self._fixed
        squares = np.stack([(design.T * row) @ design for row in weights])
        # a little on the fixed terms too: a refit may have a few distinct rows only
        squares += np.where(penalised, penalties[:, None], TINY)[:, None] * np.eye(len(penalised))
        solved = np.linalg.solve(squares, ((weights * self._y) @ design)[:, :, None])[:, :, 0]
        b = solved[:, self._fixed :] @ self._axes
        return solved[:, : self._fixed] - b @ self._along_fixed.T, b
