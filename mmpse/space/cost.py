"""What subnets cost: FLOPs and parameters of many subnets as one array operation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .search_space import SearchSpace


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
        self._index = {name: k for k, name in enumerate(units)}
        self.constant = 0.0
        self.linear = np.zeros(len(units))
        self.quadratic = np.zeros((len(units), len(units)))

    def add(self, value: float, *units: str | None) -> None:
        """Add ``value`` times the widths of up to two units (``None``: no unit)."""
        named = [self._index[unit] for unit in units if unit is not None]
        if not named:
            self.constant += value
        elif len(named) == 1:
            self.linear[named[0]] += value
        else:
            self.quadratic[named[0], named[1]] += value

    def __call__(self, widths: np.ndarray) -> np.ndarray:
        """Cost of subnets.

        Args:
            widths: Channels, integer array ``(subnets, units)``.

        Returns:
            Integer array ``(subnets,)``.
        """
        w = np.asarray(widths, dtype=np.float64)  # exact below 2**53
        cost = np.einsum('nu,nu->n', w @ self.quadratic + self.linear, w) + self.constant
        return np.rint(cost).astype(np.int64)

    def expected(self, mean: np.ndarray, variance: np.ndarray) -> float:
        """Expected cost when every unit's width is drawn independently.

        Args:
            mean: Mean width of every unit, ``(units,)``.
            variance: Variance of every unit's width, ``(units,)``.
        """
        own = np.diag(self.quadratic) @ variance
        return float(self.constant + self.linear @ mean + mean @ self.quadratic @ mean + own)

    def marginal(self, widths: np.ndarray) -> np.ndarray:
        """What one more channel of each unit costs beside ``widths``; both ``(units,)``."""
        return self.linear + (self.quadratic + self.quadratic.T) @ widths


def nearest_uniform(
    space: SearchSpace, cost: Cost, target: float, at_most: bool = False
) -> np.ndarray:
    """Widths ``(units,)`` of the uniform subnet whose cost is nearest to ``target``.

    Uniform pruning takes one ratio for all units; of the distinct subnets that ratios in steps of
    0.001 give, the nearest one is returned.

    Args:
        at_most: Leave out subnets that cost more than ``target``, if there are others.
    """
    ratios = np.arange(0.0, 1.0005, 0.001)
    rows = np.unique(space.array([space.uniform(ratio) for ratio in ratios]), axis=0)
    distance = np.abs(cost(rows) - float(target))
    if at_most and (cost(rows) <= target).any():
        distance[cost(rows) > target] = np.inf
    return rows[np.argmin(distance)]
