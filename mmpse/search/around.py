"""Drawing subnets around a budget, and around the best widths that are known."""

from collections.abc import Mapping, Sequence

import numpy as np

from mmpse.space import Budget, Cost, SearchSpace, WidthDistribution, tilted, uniform_within

from .record import best_widths

FIRST, LAST = (0.4, 2.0), (0.8, 1.1)  # ranges of the cost, in budgets
NARROW = 0.6  # share of the training after which the range is the last one
AROUND = 0.5  # share of the training after which half of the subnets are near the best widths
MOVED = 0.25  # share of the units that differ from the best widths, by one candidate
LEVELS = 8
FEWEST = 50  # losses that tell of best widths
FAR, WITHIN, TRIALS = 2, (0.75, 1.25), 50  # candidates up or down; budgets; draws of a subnet


def around(
    space: SearchSpace,
    budget: Budget,
    widths: Sequence[int],
    count: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Subnets near one: each of its units is moved by up to two candidates, or stays.

    They cost about as much as the budget: the best widths are to be found between them.

    Args:
        widths: That one ``(units,)``.

    Returns:
        Integer array ``(count, units)``. One may be there twice in a small space.
    """
    table, last = space.table, (space.table > 0).sum(axis=1) - 1
    at = (table == np.asarray(widths)[:, None]).argmax(axis=1)
    moved = at + rng.integers(-FAR, FAR + 1, size=(count, TRIALS, len(at)))
    rows = np.take_along_axis(table[None, None], np.clip(moved, 0, last)[..., None], 3)[..., 0]
    costs = budget.cost(rows.reshape(-1, len(at))).reshape(count, TRIALS) / budget.high
    low, high = WITHIN
    outside = np.maximum(np.maximum(low - costs, costs - high), 0)  # the first that is inside, else
    return rows[np.arange(count), outside.argmin(axis=1)]  # the nearest


class BudgetSampler:
    """Subnets of the costs that matter: around a budget, ever nearer to it.

    Costs are spread evenly, in proportion, over 0.4 to 2 times the budget at first; the range
    narrows to 0.8 to 1.1 times. In the second half of the training every other subnet is drawn
    around the widths that the losses so far predict to be the best, one candidate up or down in a
    quarter of the units. Source: this project.

    Args:
        budget: Resource -> limit, see :class:`mmpse.space.Budget`; the first one's costs are
            spread.

    Raises:
        BudgetError: If no subnet meets the budget.
    """

    def __init__(
        self,
        space: SearchSpace,
        costs: Mapping[str, Cost],
        budget: Mapping[str, str | float],
    ) -> None:
        self.space = space
        self.budget = Budget(space, costs, budget)
        self.reference = uniform_within(space, self.budget)
        self._t = -1.0
        self.narrow(0.0, np.empty(0), np.empty((0, len(space))), np.empty(0))

    def narrow(
        self, share: float, iterations: np.ndarray, widths: np.ndarray, losses: np.ndarray
    ) -> None:
        """Draw as it is due from a point of the training on.

        Args:
            share: Of the training that is over, 0 to 1.
            iterations, widths, losses: The record so far: ``(n,)``, ``(n, units)``, ``(n,)``.
        """
        cost = self.budget.cost
        t = min(share / NARROW, 1.0)
        if t != self._t:
            self._t = t
            low, high = (a ** (1 - t) * b**t * self.budget.high for a, b in zip(FIRST, LAST))
            tiny, full = cost(self.space.array([self.space.tinynet, self.space.fullnet]))
            targets = np.clip(np.geomspace(low, high, LEVELS), tiny, full)
            self._levels: list[WidthDistribution] = [tilted(self.space, cost, x) for x in targets]
        self.best: np.ndarray | None = None
        if share >= AROUND and len(losses) >= FEWEST:
            record = iterations, widths, losses
            self.best = best_widths(self.space, self.budget, self.reference, *record)

    def sample(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Draw widths, integer array ``(count, units)``."""
        levels = rng.integers(LEVELS, size=count)
        near = rng.random(count) < 0.5
        rows = [
            self._levels[level].sample(rng, 1)[0]
            if self.best is None or not near[k]
            else self._near(rng)
            for k, level in enumerate(levels)
        ]
        return np.stack(rows)

    def _near(self, rng: np.random.Generator) -> np.ndarray:
        """Widths near the best ones."""
        moves = rng.choice([-1, 0, 1], size=len(self.best), p=[MOVED / 2, 1 - MOVED, MOVED / 2])
        widths = self.best.copy()
        for u, unit in enumerate(self.space.units):
            at = unit.candidates.index(int(widths[u])) + moves[u]
            widths[u] = unit.candidates[min(max(at, 0), len(unit.candidates) - 1)]
        return widths
