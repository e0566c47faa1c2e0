"""A limit on a resource, and the window below it in which subnets are searched."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from .cost import Cost
from .search_space import SearchSpace

_UNITS = {'': 1.0, 'K': 1e3, 'M': 1e6, 'G': 1e9}


def parse_amount(amount: str | float, whole: float) -> float:
    """An amount of a resource as a number.

    Args:
        amount: A number, a number with a unit (``'300M'``, ``'4.1G'``) or a share of the fullnet
            (``'50%'``).
        whole: What the fullnet costs.
    """
    if isinstance(amount, (int, float)) and not isinstance(amount, bool) and amount > 0:
        return float(amount)
    match = re.fullmatch(r'\s*(\d+(?:\.\d+)?)\s*([KMG%]?)\s*', str(amount))
    if not match or float(match[1]) <= 0:
        raise ValueError(
            f"budget {amount!r} is not an amount; expected a number, '300M', '4.1G' or '50%'"
        )
    number = float(match[1])
    return number / 100 * whole if match[2] == '%' else number * _UNITS[match[2]]


class BudgetError(ValueError):
    """A budget that no subnet can meet."""


class Budget:
    """Subnets whose resource lies in ``[(1 - window) * limit, limit]``.

    Args:
        space: The search space.
        costs: Resource name -> cost.
        limit: Resource name -> amount, exactly one, e.g. ``{'flops': '50%'}``.
        window: Width of the window as a share of the limit.

    Raises:
        BudgetError: If the resource or amount cannot be understood, or if no subnet of the space
            can lie in the window; the message gives the reachable range.
    """

    def __init__(
        self,
        space: SearchSpace,
        costs: Mapping[str, Cost],
        limit: Mapping[str, str | float],
        window: float = 0.05,
    ) -> None:
        if len(limit) != 1 or next(iter(limit)) not in costs:
            raise BudgetError(
                f'budget must name one of {sorted(costs)}, e.g. dict(flops="50%"), got '
                f'{dict(limit)}'
            )
        if not 0 < window < 1:
            raise BudgetError(
                'window must be between 0 and 1 (0.05: 95 % to 100 % of the budget), got '
                f'{window!r}'
            )
        ((self.resource, amount),) = limit.items()
        self.cost = costs[self.resource]
        tiny, full = self.cost(space.array([space.tinynet, space.fullnet]))
        try:
            self.high = parse_amount(amount, float(full))
        except ValueError as error:
            raise BudgetError(str(error)) from None
        self.low = (1 - window) * self.high
        if self.high < tiny or self.low > full:
            raise BudgetError(
                f'no subnet has {self.low:,.0f} to {self.high:,.0f} {self.resource}: this space '
                f'reaches from {tiny:,} (tinynet) to {full:,} (fullnet); choose a budget in that '
                'range, or other ratios or another widen_factor of the backbone'
            )

    def contains(self, widths: np.ndarray) -> np.ndarray:
        """Which of the subnets ``(subnets, units)`` lie in the window, bool ``(subnets,)``."""
        cost = self.cost(widths)
        return (self.low <= cost) & (cost <= self.high)

    def __repr__(self) -> str:
        return f'{self.low:,.0f} to {self.high:,.0f} {self.resource}'
