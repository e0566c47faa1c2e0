"""Limits on resources, and the window below the first of them in which subnets are searched."""

import re
from collections.abc import Mapping

import numpy as np

from mmpse.errors import UserError

from .cost import Cost
from .search_space import SearchSpace

_COUNTS = {'': 1.0, 'K': 1e3, 'M': 1e6, 'G': 1e9}
_TIMES = {'us': 1.0, 'ms': 1e3, 's': 1e6}  # latency is counted in microseconds
NAMES = {'flops': 'FLOPs (multiply-adds)', 'params': 'parameters', 'latency': 'us of latency'}


class BudgetError(UserError):
    """A budget that cannot be understood, or that no subnet can meet."""


def parse_amount(amount: str | float, whole: float, resource: str) -> float:
    """An amount of a resource as a number.

    Args:
        amount: A number, a number with a unit (``'300M'``, ``'4.1G'``; of a latency ``'5ms'``,
            ``'800us'``, and never without) or a share of the fullnet (``'50%'``).
        whole: What the fullnet costs.
        resource: ``'flops'``, ``'params'`` or ``'latency'``.

    Raises:
        BudgetError: If it is none.
    """
    units = _TIMES if resource == 'latency' else _COUNTS
    match = re.fullmatch(r'\s*(\d+(?:\.\d*)?(?:e[+-]?\d+)?)\s*([A-Za-z%]*)\s*', str(amount))
    if not match or match[2] not in {**units, '%': 0} or not 0 < float(match[1]) < np.inf:
        expected = "'5ms', '800us'" if units is _TIMES else "a number, '300M', '4.1G'"
        raise BudgetError(
            f"budget {amount!r} is not an amount of {resource}; expected {expected} or '50%'"
        )
    number = float(match[1])
    if not match[2] and number <= 1:
        raise BudgetError(
            f'budget {amount!r} is {number:g} {NAMES[resource]} in all; a share of the fullnet is '
            f"written '{number:.0%}'"
        )
    return number / 100 * whole if match[2] == '%' else number * units[match[2]]


class Budget:
    """Subnets that cost at most the limit of every resource, and not much less of the first.

    The first resource has a window: ``[(1 - window) * limit, limit]``, since a subnet far below the
    limit gives accuracy away. The others are upper limits only. A subnet above any limit is never
    inside.

    Args:
        costs: Resource name -> cost.
        limit: Resource name -> amount, the first one with the window, e.g. ``{'flops': '50%'}`` or
            ``{'flops': '300M', 'latency': '5ms'}``. FLOPs are multiply-adds.
        window: Width of the window as a share of the first limit.

    Attributes:
        limits: Resource name -> (cost, limit), the one with the window first.
        resource, cost: The first resource.
        low, high: Its window.

    Raises:
        BudgetError: If a resource or amount cannot be understood, or if the space does not reach
            it; the message names it and gives the reachable range.
    """

    def __init__(
        self,
        space: SearchSpace,
        costs: Mapping[str, Cost],
        limit: Mapping[str, str | float],
        window: float = 0.05,
    ) -> None:
        if not isinstance(limit, Mapping):
            raise BudgetError(
                f'budget must be a dict of {sorted(costs)}, e.g. dict(flops="50%"), got {limit!r}; '
                'on a command line: --cfg-options train_cfg.budget._delete_=True '
                'train_cfg.budget.params=2M'
            )
        if not limit or not limit.keys() <= costs.keys():
            raise BudgetError(
                f'budget must name some of {sorted(costs)}, e.g. dict(flops="50%"), got '
                f'{dict(limit)}'
            )
        if not isinstance(window, (int, float)) or not 0 < window < 1:
            raise BudgetError(
                'window must be between 0 and 1 (0.05: 95 % to 100 % of the budget), got '
                f'{window!r}'
            )
        self.limits: dict[str, tuple[Cost, float]] = {}
        for name, amount in limit.items():
            tiny, full = costs[name](space.array([space.tinynet, space.fullnet]))
            high = parse_amount(amount, float(full), name)
            low = 0.0 if self.limits else (1 - window) * high
            if high < tiny or low > full:
                raise BudgetError(
                    f'no subnet has {_interval(low, high, name)}: this space reaches from '
                    f'{tiny:,} (tinynet, {tiny / full:.0%}) to {full:,} (fullnet, 100%); choose '
                    f"one in that range, e.g. '{(tiny + full) / full / 2:.0%}', or give the "
                    'supernet other ratios or a smaller divisor'
                )
            self.limits[name] = costs[name], high
        self.resource, (self.cost, self.high) = next(iter(self.limits.items()))
        self.low = (1 - window) * self.high

    def meets(self, widths: np.ndarray) -> np.ndarray:
        """Which of the subnets ``(subnets, units)`` are above no limit, bool ``(subnets,)``."""
        return np.all([cost(widths) <= high for cost, high in self.limits.values()], axis=0)

    def contains(self, widths: np.ndarray) -> np.ndarray:
        """Which of them lie inside, bool ``(subnets,)``."""
        return self.meets(widths) & (self.cost(widths) >= self.low)

    def lowest(self, widths: np.ndarray) -> str:
        """For errors: the least that subnets in the window cost in each of the other resources."""
        cost = self.cost(widths)
        rows = widths[(self.low <= cost) & (cost <= self.high)]
        others = list(self.limits.items())[1:]
        if not len(rows) or not others:
            return ''
        least = [f'{cost(rows).min():,} {NAMES[name]}' for name, (cost, _) in others]
        return f' (those in the window have no less than {" or ".join(least)})'

    def __repr__(self) -> str:
        intervals = [
            _interval(self.low if name == self.resource else 0, high, name)
            for name, (_, high) in self.limits.items()
        ]
        return ' and '.join(intervals)


def _interval(low: float, high: float, resource: str) -> str:
    name = NAMES.get(resource, resource)
    return f'{low:,.0f} to {high:,.0f} {name}' if low else f'at most {high:,.0f} {name}'


def uniform_within(space: SearchSpace, budget: Budget) -> np.ndarray:
    """Widths ``(units,)`` of uniform pruning that uses a budget up.

    The steps of one ratio for all units are coarse. So of two neighbouring ratios the units take
    the wider one by turns, spread over the network, as long as the budget holds.

    Raises:
        BudgetError: If the narrowest uniform subnet is above a limit.
    """
    rows = space.uniform_rows()
    inside = np.flatnonzero(budget.meets(rows))
    if not len(inside):
        raise BudgetError(f'no uniform subnet has {budget}; choose another budget')
    best = rows[inside[-1]].copy()
    if inside[-1] + 1 < len(rows):
        wider = rows[inside[-1] + 1]
        units = np.arange(len(space))
        # in the order of reversed bits: any first few are spread evenly
        bits = max(1, int(len(units) - 1).bit_length())
        for unit in sorted(units, key=lambda k: int(f'{k:0{bits}b}'[::-1], 2)):
            row = best.copy()
            row[unit] = wider[unit]
            if budget.meets(row[None])[0]:
                best = row
    return best
