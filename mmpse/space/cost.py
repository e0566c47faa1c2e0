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
        """Cost of subnets ``(subnets, units)``, integer array ``(subnets,)``."""
        return np.rint(self.exact(widths)).astype(np.int64)

    def exact(self, widths: np.ndarray) -> np.ndarray:
        """The same before rounding, ``(subnets,)``."""
        w = np.asarray(widths, dtype=np.float64)  # exact below 2**53
        return np.einsum('nu,nu->n', w @ self.quadratic + self.linear, w) + self.constant

    def tables(self, space: SearchSpace) -> TableCost:
        """The same cost, looked up by the candidates of ``space``."""
        tables = TableCost(space, self.constant)
        widths = [np.array(unit.candidates, dtype=np.float64) for unit in space.units]
        for u, own in enumerate(widths):
            tables.units[u] += self.linear[u] * own + self.quadratic[u, u] * own**2
            for v in range(u + 1, len(widths)):
                value = self.quadratic[u, v] + self.quadratic[v, u]
                if value:
                    tables.add(value * np.outer(own, widths[v]), u, v)
        return tables


class TableCost:
    """A resource that is a sum over units and pairs of units, known at the candidates of a space.

    Every resource of a network that adds up over its layers is one: a layer depends on its input
    width and its output width.

    Args:
        constant: What is added to every subnet.

    Attributes:
        units: Share of each unit alone, one array ``(candidates,)`` per unit.
        pairs: Share of two units u < v together, ``(u, v)`` -> array
            ``(candidates of u, candidates of v)``.
    """

    def __init__(self, space: SearchSpace, constant: float = 0.0) -> None:
        self.constant = constant
        self.candidates = [np.array(unit.candidates) for unit in space.units]
        self.units = [np.zeros(len(own)) for own in self.candidates]
        self.pairs: dict[tuple[int, int], np.ndarray] = {}

    def add(self, table: np.ndarray, u: int, v: int | None = None) -> None:
        """Add the values of unit ``u``, ``(candidates,)``, or of two units, one per dimension."""
        if v is None:
            self.units[u] += table
        elif u == v:
            self.units[u] += np.diagonal(table)
        else:
            key, table = ((u, v), table) if u < v else ((v, u), table.T)
            self.pairs[key] = self.pairs.get(key, 0.0) + table

    def tables(self, space: SearchSpace) -> TableCost:
        return self

    def __call__(self, widths: np.ndarray) -> np.ndarray:
        """Cost of subnets ``(subnets, units)``, integer array ``(subnets,)``."""
        index = self.index(np.asarray(widths))
        cost = np.full(len(index), self.constant)
        for u, table in enumerate(self.units):
            cost += table[index[:, u]]
        for (u, v), table in self.pairs.items():
            cost += table[index[:, u], index[:, v]]
        return np.rint(cost).astype(np.int64)

    def index(self, widths: np.ndarray) -> np.ndarray:
        """Number of the candidate that each width is; both ``(subnets, units)``."""
        columns = zip(self.candidates, widths.T)
        return np.stack([np.searchsorted(own, column) for own, column in columns], axis=1)

    def expected(self, probabilities: np.ndarray) -> float:
        """Expected cost of widths drawn independently, ``probabilities`` (units, candidates)."""
        of_units = [row[: len(own)] for row, own in zip(probabilities, self.candidates)]
        cost = self.constant + sum(p @ table for p, table in zip(of_units, self.units))
        return float(cost + sum(of_units[u] @ t @ of_units[v] for (u, v), t in self.pairs.items()))

    def beside(self, widths: np.ndarray) -> list[np.ndarray]:
        """What each candidate of a unit costs while the others are as in ``widths`` (units,).

        Returns:
            One array ``(candidates,)`` per unit, without what does not depend on that unit.
        """
        (at,) = self.index(np.asarray(widths)[None])
        cost = [table.copy() for table in self.units]
        for (u, v), table in self.pairs.items():
            cost[u] += table[:, at[v]]
            cost[v] += table[at[u]]
        return cost
