"""Drawing widths under the condition that their cost lies in a window."""

from functools import partial
from typing import NamedTuple

import numpy as np

from .cost import Cost
from .search_space import SearchSpace

BINS = 8  # bins of the cost in the window, per unit
CELLS = 1 << 24  # numbers that the tables of a sampler hold at most


class Step(NamedTuple):
    """How one more unit changes the state; arrays ``(states after, ways to get there)``."""

    before: np.ndarray  # state before
    candidate: np.ndarray  # number of the new unit's candidate
    bins: np.ndarray  # what it adds to the cost
    weight: np.ndarray  # its probability


class ConditionalSampler:
    """Draws from independent widths whose cost lies in ``[low, high]``.

    Rejection throws away all draws but those in the window. Here the units are added one by one,
    and a table holds the probability of every (state, cost so far): the state is the widths of
    those units that later ones share a layer with, which are one or two in a chain or in a residual
    network, and the cost is counted in bins. Draws run back through the tables, from the window to
    the first unit (forward filtering, backward sampling). Source: this project.

    The drawn interval of bins is the window and what rounding can hide on both sides. So every
    subnet in the window is drawn as often as the condition says, and some outside are drawn as
    well: those are the caller's to reject.

    Args:
        probabilities: Of every unit's candidates, ``(units, candidates)``.
        low, high: The window.

    Attributes:
        mass: Probability of the drawn interval; 0 if no subnet is in the window.
    """

    def __init__(
        self, space: SearchSpace, probabilities: np.ndarray, cost: Cost, low: float, high: float
    ) -> None:
        units = len(space)
        self.candidates = [np.array(unit.candidates) for unit in space.units]
        base, raw, states = cost.constant, [], 0
        coupled = (cost.couplings != 0) | np.eye(units, dtype=bool)
        # the last unit that each one shares a layer with
        last_use = [np.flatnonzero(row)[-1] for row in coupled]
        frontier: list[int] = []
        for k in range(units):
            axes = [*frontier, k]
            added = _added(self.candidates, cost, axes)
            base += added.min()
            kept = [axis for axis, unit in enumerate(axes) if last_use[unit] > k]
            gone = [axis for axis in range(len(axes)) if axis not in kept]
            frontier = [axes[axis] for axis in kept]
            after = int(np.prod([added.shape[axis] for axis in kept]))
            ways = np.arange(added.size).reshape(added.shape).transpose(kept + gone)
            raw.append((ways.reshape(after, -1), (added - added.min()).ravel()))
            states += after

        slack = units / 2  # bins that rounding can hide
        most = max(CELLS // states, 4 * units)
        width = max((high - low) / (BINS * units), (high - base) / (most - slack - 1))
        size = max(0, int((high - base) / width + slack) + 1)
        self._low = max(0, int(np.ceil((low - base) / width - slack)))
        self._steps: list[Step] = []
        self._tables = [np.eye(1, size)]  # nothing drawn, nothing spent
        for k, (ways, added) in enumerate(raw):
            before, candidate = np.divmod(ways, len(self.candidates[k]))
            bins = np.rint(added[ways] / width).astype(np.int64)
            self._steps.append(Step(before, candidate, bins, probabilities[k][candidate]))
            self._tables.append(_advance(self._tables[k], self._steps[k]))
        self.mass = float(self._tables[-1][0, self._low :].sum())

    def sample(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Draw widths, integer array ``(count, units)``, some of them just outside the window."""
        most = max(step.weight.shape[1] for step in self._steps)
        at_once = max(CELLS // 8 // most, 1)
        parts = [min(at_once, count - start) for start in range(0, count, at_once)]
        return np.concatenate([self._sample(rng, part) for part in parts])

    def _sample(self, rng: np.random.Generator, count: int) -> np.ndarray:
        widths = np.empty((count, len(self.candidates)), dtype=np.int64)
        state = np.zeros(count, dtype=np.int64)
        window = self._tables[-1][0, self._low :]
        bins = self._low + _choose(rng, np.broadcast_to(window, (count, len(window))))
        for k in reversed(range(len(self._steps))):
            ways = Step(*(field[state] for field in self._steps[k]))  # each (count, ways)
            rest = bins[:, None] - ways.bins
            weight = ways.weight * self._tables[k][ways.before, np.maximum(rest, 0)]
            chosen = _choose(rng, np.where(rest >= 0, weight, 0.0))[:, None]
            take = partial(np.take_along_axis, indices=chosen, axis=1)
            widths[:, k] = self.candidates[k][take(ways.candidate)[:, 0]]
            state, bins = take(ways.before)[:, 0], take(rest)[:, 0]
        return widths


def _added(candidates: list[np.ndarray], cost: Cost, units: list[int]) -> np.ndarray:
    """What the last of ``units`` costs alone and beside the others, one dimension per unit."""
    *others, own = np.ix_(*(candidates[unit] for unit in units))
    new, couplings = units[-1], cost.couplings[units[-1], units]
    alone = cost.linear[new] * own + cost.squares[new] * own**2
    return sum((c * (own * other) for c, other in zip(couplings, others)), alone)


def _advance(table: np.ndarray, step: Step) -> np.ndarray:
    """Probabilities ``(states, bins)`` after a step."""
    size = table.shape[1]
    after = np.zeros((len(step.before), size))
    for row, *ways in zip(after, *step):
        for before, _, bins, weight in zip(*ways):
            if bins < size:
                row[bins:] += weight * table[before, : size - bins]
    return after


def _choose(rng: np.random.Generator, weights: np.ndarray) -> np.ndarray:
    """One column of each row of ``weights``, with probability proportional to the weight."""
    cumulative = np.cumsum(weights, axis=1)
    draws = rng.random(len(weights)) * cumulative[:, -1]
    return np.minimum((cumulative <= draws[:, None]).sum(axis=1), weights.shape[1] - 1)
