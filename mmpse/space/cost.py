"""What subnets cost: FLOPs and parameters of many subnets as one array operation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Cost:
    """A resource that is a quadratic form of the widths.

    Every layer of a convolutional network costs a constant times its input width times its output
    width (a convolution), times one width (depthwise convolution, normalisation, a layer whose
    other side is fixed), or a constant. So ``cost(w) = constant + linear . w + w' quadratic w``.

    FLOPs are multiply-adds as :func:`mmengine.analysis.get_model_complexity_info` counts them
    (normalisation layers and global pooling included).

    Args:
        units: Names of the units, in the order of the search space.
    """

    def __init__(self, units: Sequence[str]) -> None:
        self.names = tuple(units)
        self.constant = 0.0
        self.linear = np.zeros(len(units))
        self.quadratic = np.zeros((len(units), len(units)))

    def add(self, value: float, *units: str) -> None:
        """Add ``value`` times the widths of up to two units."""
        numbers = tuple(map(self.names.index, units))
        if not numbers:
            self.constant += value
        elif len(numbers) == 1:
            self.linear[numbers] += value
        else:
            self.quadratic[numbers] += value

    def __call__(self, widths: np.ndarray) -> np.ndarray:
        """Cost of subnets ``(subnets, units)``, integer array ``(subnets,)``."""
        return np.rint(self.exact(widths)).astype(np.int64)

    def exact(self, widths: np.ndarray) -> np.ndarray:
        """The same before rounding, ``(subnets,)``."""
        w = np.asarray(widths, dtype=np.float64)  # exact below 2**53
        return np.einsum('nu,nu->n', w @ self.quadratic + self.linear, w) + self.constant

    @property
    def squares(self) -> np.ndarray:
        """What each unit's width, squared, is multiplied by ``(units,)``."""
        return self.quadratic.diagonal()

    @property
    def couplings(self) -> np.ndarray:
        """What the widths of two units are multiplied by, symmetric ``(units, units)``; the
        diagonal is zero."""
        both = self.quadratic + self.quadratic.T
        np.fill_diagonal(both, 0.0)
        return both

    def alone(self, candidates: np.ndarray) -> np.ndarray:
        """What the candidates of each unit cost by themselves; both ``(units, candidates)``."""
        return self.linear[:, None] * candidates + self.squares[:, None] * candidates**2

    def beside(self, candidates: np.ndarray, widths: np.ndarray) -> np.ndarray:
        """The same with what they cost together with the other units, as these are in ``widths``
        ``(units,)``."""
        return self.alone(candidates) + (self.couplings @ widths)[:, None] * candidates

    def expected(self, candidates: np.ndarray, probabilities: np.ndarray) -> float:
        """Expected cost of widths drawn independently; both ``(units, candidates)``."""
        mean = (probabilities * candidates).sum(axis=1)
        variance = (probabilities * candidates**2).sum(axis=1) - mean**2
        return float(self.exact(mean[None])[0] + self.squares @ variance)
