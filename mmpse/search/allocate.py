"""Widths of the least loss under a budget, where the loss is a sum over the units."""

from collections.abc import Sequence

import numpy as np

from mmpse.errors import UserError
from mmpse.space import Budget, BudgetError, SearchSpace
from mmpse.space.budget import NAMES

KICKS = 10  # times that some units are changed at random
ROUNDING = 1e-9  # of the range of the losses: a smaller gain is none


def allocate(
    space: SearchSpace,
    budget: Budget,
    losses: np.ndarray,
    *,
    errors: float = 0.0,
    floor: float | Sequence[float] = 0.0,
    ceiling: float | Sequence[float] = 1.0,
    starts: np.ndarray | None = None,
    count: int = 1,
) -> np.ndarray:
    """The widths that lose least, as far as changes of one and of two units can tell.

    From the fullnet, units are cut until every limit is met: always the cut that loses least for
    what it saves. Then the best change of one or of two units is made, as long as there is one that
    gains; every step looks at all of them. The same is done again after random changes of a few
    units, which matters where several limits hold at once.

    What is found costs at most the limit of every resource. It lies in the window of the budget's
    first resource, but not where other limits, a gap in the costs or losses that fall with narrower
    widths are in the way. No unit of it can be widened within the limits without losing more.

    Of several fits the mean counts, and an upper bound if ``errors`` is given: the sum of the mean
    and so many standard deviations over the fits.

    Args:
        losses: Loss of every candidate, ``(units, candidates)`` or ``(fits, units, candidates)``;
            rows of units with fewer candidates are padded with anything.
        errors: Standard deviations over the fits between the loss and its upper bound.
        floor: Least width as a share of the full one, of all units or of each ``(units,)``.
        ceiling: Largest width, likewise; of a unit with no candidate between them the narrowest one
            above the floor is taken.
        starts: Further subnets ``(starts, units)`` to start from, where they meet the limits and
            the floor; what is found is no worse than any of them that is in the window.

    Returns:
        Integer array ``(subnets, units)``: the one that was found, and behind it the next best of
        those that differ from it in one or two units; less than ``count`` where there are no more.

    Raises:
        BudgetError: If the narrowest widths that the floor allows are above the budget.
        ValueError: If ``losses`` are not finite.
    """
    problem = _Problem(space, budget, losses, errors, floor, ceiling)
    begin = [problem.cut(problem.widest)]
    if starts is not None:
        begin += [taken for taken in problem.taken(starts) if problem.within(taken)]
    best = min((problem.improved(taken) for taken in begin), key=problem.key)
    rng = np.random.default_rng(0)
    for _ in range(KICKS):
        best = min(best, problem.improved(problem.kicked(best, rng)), key=problem.key)
    return problem.widths(problem.around(best, count))


class _Problem:
    """Losses and costs by *option*, which is a unit and one of its candidates.

    A subnet is the options that it takes, ``(units,)``. One more unit, of a single candidate which
    neither loses nor costs, makes the change of one unit a change of two.
    """

    def __init__(
        self,
        space: SearchSpace,
        budget: Budget,
        losses: np.ndarray,
        errors: float,
        floor: float | Sequence[float],
        ceiling: float | Sequence[float],
    ) -> None:
        table = space.table
        fits = np.asarray(losses, dtype=float).reshape(-1, *table.shape)
        listed = table > 0
        if not np.isfinite(fits[:, listed]).all():
            raise UserError('expected a finite loss for every candidate, got some that are not')
        fits = np.where(listed, fits, 0.0)
        share = table / table.max(axis=1, keepdims=True)
        floors, ceilings = (
            np.reshape(np.broadcast_to(bound, len(table)), (-1, 1)) for bound in (floor, ceiling)
        )
        allowed = listed & (share >= np.minimum(floors, 1) - ROUNDING)
        narrowest = np.where(allowed, share, np.inf).min(axis=1, keepdims=True)
        allowed &= share <= np.maximum(ceilings, narrowest) + ROUNDING

        self.table = np.concatenate([table, np.eye(1, table.shape[1], dtype=table.dtype)])
        self.unit = np.repeat(np.arange(len(self.table)), table.shape[1])
        self.option = np.arange(len(self.unit))
        self.start = self.option.reshape(self.table.shape)[:, 0]
        self.allowed = self._options(allowed, last=True)
        self.loss = self._options(fits.mean(axis=0))
        self.rounding = ROUNDING * np.ptp(self.loss)
        # by option and fit; of a subnet the norm of its sum is `errors` standard deviations
        spread = [self._options(values) for values in fits - fits.mean(axis=0)]
        self.spread = np.stack(spread, axis=1) * errors / np.sqrt(len(fits))

        # costs are rounded: those below the whole number below the limit are within it
        self.limits = np.floor([limit for _, limit in budget.limits.values()])
        self.low = np.ceil(budget.low)
        costs = [cost for cost, _ in budget.limits.values()]
        self.constant = np.array([cost.constant for cost in costs])
        self.alone = np.array([self._options(cost.alone(table)) for cost in costs])
        widths = self.table.ravel()
        both = np.ix_(self.unit, self.unit)
        self.pairs = np.array(
            [np.pad(cost.couplings, (0, 1))[both] * np.outer(widths, widths) for cost in costs]
        )

        by_unit = self.allowed.reshape(self.table.shape)
        self.narrowest = self.start + by_unit.argmax(axis=1)
        self.widest = self.start + by_unit.shape[1] - 1 - by_unit[:, ::-1].argmax(axis=1)
        for name, cost, limit in zip(budget.limits, self.cost(self.narrowest), self.limits):
            if cost > limit:
                raise BudgetError(
                    f'the narrowest widths that the floor allows have {cost:,.0f} '
                    f'{NAMES.get(name, name)}, the budget is {limit:,.0f}; lower the floor or '
                    'raise the budget'
                )

    def _options(self, values: np.ndarray, last: float = 0) -> np.ndarray:
        """Values ``(units, candidates)`` by option."""
        end = np.full((1, values.shape[1]), 0, values.dtype)
        end[0, 0] = last
        return np.concatenate([values, end]).ravel()

    def taken(self, widths: np.ndarray) -> np.ndarray:
        """The options of subnets ``(subnets, units)``."""
        widths = np.pad(np.asarray(widths), ((0, 0), (0, 1)), constant_values=1)
        return self.start + (widths[:, :, None] == self.table).argmax(axis=2)

    def widths(self, taken: np.ndarray) -> np.ndarray:
        return self.table.ravel()[taken][..., :-1]

    def cost(self, taken: np.ndarray) -> np.ndarray:
        """Of each resource."""
        pairs = self.pairs[:, taken][:, :, taken].sum(axis=(1, 2)) / 2
        return self.constant + self.alone[:, taken].sum(axis=1) + pairs

    def within(self, taken: np.ndarray) -> bool:
        return self.allowed[taken].all() and (self.cost(taken) <= self.limits).all()

    def value(self, taken: np.ndarray) -> float:
        """The loss, or its upper bound."""
        return self.loss[taken].sum() + np.linalg.norm(self.spread[taken].sum(axis=0))

    def key(self, taken: np.ndarray, gain: float = 0.0) -> tuple[bool, float]:
        """Lower is better: a subnet below the window is the last choice."""
        return self.cost(taken)[0] < self.low, self.value(taken) - gain

    def _change(self, values: np.ndarray, taken: np.ndarray) -> np.ndarray:
        """What the values ``(options, ...)`` of a subnet change by if one option is taken."""
        return values - values[taken[self.unit]]

    def _costs(self, taken: np.ndarray) -> np.ndarray:
        """Costs ``(resources, options)`` of a subnet if one option is taken."""
        beside = self.alone + self.pairs[:, :, taken].sum(axis=2)
        return self.cost(taken)[:, None] + self._change(beside.T, taken).T

    def cut(self, taken: np.ndarray) -> np.ndarray:
        """Cut a subnet until it meets the limits."""
        while ((excess := self.cost(taken) / self.limits - 1) > 0).any():
            saved = np.maximum(excess, 0) @ (self.cost(taken)[:, None] - self._costs(taken))
            cuts = self.allowed & (self.option < taken[self.unit]) & (saved > 0)
            if not cuts.any():  # costs that do not fall with the width
                return self.narrowest
            rate = self._change(self.loss, taken)[cuts] / saved[cuts]
            taken = self._replaced(taken, np.flatnonzero(cuts)[[rate.argmin()]])
        return taken

    def kicked(self, taken: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A subnet that meets the limits, of one some of whose units were changed at random."""
        units = len(taken) - 1
        some = rng.choice(units, min(units, max(3, units // 10)), replace=False)
        options = [rng.choice(np.flatnonzero(self.allowed & (self.unit == u))) for u in some]
        return self.cut(self._replaced(taken, np.array(options)))

    def improved(self, taken: np.ndarray) -> np.ndarray:
        return self.fill(self.exchange(self.fill(taken)))

    def fill(self, taken: np.ndarray) -> np.ndarray:
        """Widen units as long as that loses nothing."""
        while True:
            spread = self.spread[taken].sum(axis=0) + self._change(self.spread, taken)
            loss = self.loss[taken].sum() + self._change(self.loss, taken)
            value = loss + np.linalg.norm(spread, axis=1)
            wider = self.allowed & (self.option > taken[self.unit]) & (value <= self.value(taken))
            wider &= (self._costs(taken) <= self.limits[:, None]).all(axis=0)
            if not wider.any():
                return taken
            taken = self._replaced(taken, [np.where(wider, value, np.inf).argmin()])

    def exchange(self, taken: np.ndarray) -> np.ndarray:
        """Make the best change of one or two units, as long as one gains or reaches the window."""
        while True:
            values, pairs = self._changes(taken)
            if not len(values):
                return taken
            best = self._replaced(taken, pairs[values.argmin()])
            if self.key(best) >= self.key(taken, self.rounding):
                return taken
            taken = best

    def around(self, taken: np.ndarray, count: int) -> np.ndarray:
        """A subnet and the best that differ from it in one or two units, ``(count, units)``."""
        if count == 1:
            return taken[None]
        values, pairs = self._changes(taken)
        best = np.argsort(values, kind='stable')[: count - 1]
        return np.stack([taken, *(self._replaced(taken, pair) for pair in pairs[best])])

    def _changes(self, taken: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All changes of two units within the budget: values ``(n,)`` and options ``(n, 2)``.

        Those below the window are left out; where all are, those that cost less than before.
        """
        last = self.unit == self.unit[-1]
        options = np.flatnonzero(self.allowed & ((self.option != taken[self.unit]) | last))
        now, unit = taken[self.unit[options]], self.unit[options]

        fits = unit[:, None] < unit
        before = self.cost(taken)
        for r, one in enumerate(self._costs(taken)[:, options]):
            rows, rows_now = self.pairs[r][options], self.pairs[r][now]
            both = rows[:, options] - rows[:, now] - rows_now[:, options] + rows_now[:, now]
            cost = both + one[:, None] + (one - before[r])
            fits &= cost <= self.limits[r]
            if r == 0:
                inside, less = cost >= self.low, cost < before[0]
        fits &= inside if (fits & inside).any() else ~less

        loss = self._change(self.loss, taken)[options]
        value = loss[:, None] + (loss + self.loss[taken].sum())
        if self.spread.any():
            before = self.spread[taken].sum(axis=0)
            one = self._change(self.spread, taken)[options]
            alone = (one * (one + 2 * before)).sum(axis=1)
            square = 2 * one @ one.T + alone[:, None] + (alone + before @ before)
            value += np.sqrt(np.maximum(square, 0.0))
        first, second = np.nonzero(fits)
        return value[first, second], np.stack([options[first], options[second]], axis=1)

    def _replaced(self, taken: np.ndarray, options: np.ndarray) -> np.ndarray:
        taken = taken.copy()
        taken[self.unit[options]] = options
        return taken
