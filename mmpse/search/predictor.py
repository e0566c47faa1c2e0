"""The loss of a subnet, predicted from its widths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mmpse.space import Cost, SearchSpace, TableCost
from mmpse.space.sampling import width_table

from .ridge import Ridge

FEWEST = 4  # subnets from which anything can be told: two coefficients that are always there


class Notch(NamedTuple):
    """What it costs, and what it saves, to make a unit one candidate narrower."""

    unit: str
    width: int
    narrower: int
    loss: float  # added
    error: float  # of the added loss: its standard deviation over the refits
    saved: float  # share of the subnet's cost


class Predictor:
    """An additive model of the loss: ``a + sum_u b_u log2(width_u / full width_u)``.

    Ridge regression on a record of subnets and losses, to find subnets that lose less than a
    reference of the same cost. What ridge draws to zero is how the slopes ``b_u`` differ from what
    the cost alone would say: that a unit matters in proportion to its share of the reference's
    cost. So a record that tells nothing makes no subnet better than the reference that does not
    cost more, and it takes evidence to prefer one. Leave-one-out cross-validation says how much,
    and whether squares of the logarithms are worth adding. Bootstrap refits say how sure the model
    is. Source: this project.

    The record may hold fewer subnets than there are units, and units whose width never changes:
    what it does not tell is as the cost says. Of fewer than four subnets, of equal losses or equal
    subnets nothing is learnt: every subnet has the mean loss.

    A predictor is not changed; a record that has grown is given to a new one (milliseconds).

    Args:
        space: The search space.
        cost: The cost that is limited, of several that of the budget's first resource.
        reference: The subnet to improve on ``(units,)``, the uniform one of the budget, say.
        widths: Subnets of the record ``(n, units)``.
        losses: Their losses ``(n,)``, or differences to the original network's on the same images;
            lower is better.
        weights: Of the subnets ``(n,)``, as one over the variance of their losses.
        refits: Number of bootstrap refits.
        seed: Of the bootstrap samples.

    Attributes:
        shares: Per cent of cost for one per cent of a unit's width, ``(units,)``.
        squares: Whether squares were added.

    Raises:
        ValueError: If the record is empty or of another space, has losses that are not finite, or
            weights that are negative or all zero.
    """

    def __init__(
        self,
        space: SearchSpace,
        cost: Cost | TableCost,
        reference: np.ndarray,
        widths: np.ndarray,
        losses: Sequence[float],
        weights: Sequence[float] | None = None,
        refits: int = 30,
        seed: int = 0,
    ) -> None:
        widths, losses, weights = _checked(space, widths, losses, weights)
        self.space, self.reference = space, np.asarray(reference)
        self._cost = cost.tables(space)
        self._full = np.array([unit.max_width for unit in space.units], dtype=float)
        x = np.log2(widths / self._full)
        self.shares = cost_shares(self._cost, self.reference)

        count, units = widths.shape
        rng = np.random.default_rng(seed)
        samples = rng.multinomial(count, np.full(count, 1 / count), size=refits)
        samples = np.concatenate([np.ones((1, count)), samples]) * weights  # the record, refits
        self.squares = False
        self._slopes = np.zeros((1 + refits, 2 * units))  # of the logarithms and of their squares
        self._constants = np.full(1 + refits, np.average(losses, weights=weights))
        if count < FEWEST or np.ptp(losses) == 0 or not np.ptp(x, axis=0).any():
            return
        fixed = np.stack([np.ones(count), x @ self.shares], axis=1)
        straight = Ridge(fixed, x, losses, weights)
        curved = Ridge(fixed, np.concatenate([x, x**2], axis=1), losses, weights)
        better = straight.errors - curved.errors
        self.squares = bool(better.mean() > better.std() / np.sqrt(count))
        a, b = (curved if self.squares else straight).fit(samples)
        self._constants = a[:, 0]
        self._slopes[:, : b.shape[1]] = b
        self._slopes[:, :units] += a[:, 1:] * self.shares

    def predict(self, widths: np.ndarray) -> np.ndarray:
        """Losses ``(subnets,)`` of subnets ``(subnets, units)``."""
        return self._losses(widths, slice(1))[:, 0]

    def lower_bound_gain(self, widths: np.ndarray, errors: float = 1.0) -> np.ndarray:
        """By how much subnets ``(subnets, units)`` lose less than the reference, at least.

        Args:
            widths: The subnets.
            errors: By how many standard deviations over the refits the bound is below the gain.

        Returns:
            Array ``(subnets,)``.
        """
        gains = self._losses(self.reference[None]) - self._losses(widths)
        return gains[:, 0] - errors * gains[:, 1:].std(axis=1)

    def tables(self) -> tuple[np.ndarray, np.ndarray]:
        """What each candidate of a unit adds to the loss of the reference.

        Returns:
            Array ``(units, candidates)``, and that of the refits ``(refits, units, candidates)``,
            zero where a unit has fewer candidates: ``losses`` and ``refits`` of
            :func:`mmpse.search.allocate`, which finds the highest lower bound of the gain.
        """
        units = len(self.space)
        table = width_table(self.space)
        x = np.log2(np.where(table, table, 1) / self._full[:, None])
        at = np.log2(self.reference / self._full)[:, None]
        slopes, squares = self._slopes[:, :units, None], self._slopes[:, units:, None]
        added = np.where(table, slopes * (x - at) + squares * (x**2 - at**2), 0.0)
        return added[0], added[1:]

    def notches(self) -> list[Notch]:
        """What a notch of each unit of the reference costs, but of those at their narrowest."""
        added, refits = self.tables()
        whole, beside = self._cost(self.reference[None])[0], self._cost.beside(self.reference)
        notches = []
        for u, at in enumerate(self._cost.index(self.reference[None])[0]):
            if at:
                unit, error = self.space.units[u], refits[:, u, at - 1].std()
                pair = unit.candidates[at], unit.candidates[at - 1]
                saved = (beside[u][at] - beside[u][at - 1]) / whole
                loss = float(added[u, at - 1])
                notches.append(Notch(unit.name, *pair, loss, float(error), float(saved)))
        return notches

    def _losses(self, widths: np.ndarray, fits: slice = slice(None)) -> np.ndarray:
        """Losses ``(subnets, 1 + refits)``."""
        x = np.log2(np.asarray(widths) / self._full)
        slopes = self._slopes[fits].T
        losses = x @ slopes[: x.shape[1]] + self._constants[fits]
        return losses + x**2 @ slopes[x.shape[1] :] if self.squares else losses


def notch_table(notches: Sequence[Notch]) -> str:
    """A table of notches, those first that lose least for what they save."""

    def rate(notch: Notch) -> float:
        return notch.loss / notch.saved if notch.saved > 0 else np.inf

    rows = [('unit', 'notch', 'loss', '', 'cost', 'loss per 1 % of cost')]
    for notch in sorted(notches, key=rate):
        change = f'{notch.width} -> {notch.narrower}'
        loss, error = f'{notch.loss:+.4g}', f'+- {notch.error:.2g}'
        rows.append(
            (notch.unit, change, loss, error, f'{-notch.saved:+.1%}', f'{rate(notch) / 100:.3g}')
        )
    sizes = [max(map(len, column)) for column in zip(*rows)]
    return '\n'.join('  '.join(map(str.ljust, row, sizes)).rstrip() for row in rows)


def cost_shares(cost: TableCost, widths: np.ndarray) -> np.ndarray:
    """By how many per cent a cost grows with one per cent of a unit's width, ``(units,)``.

    From the candidates next to those of a subnet ``(units,)``; 0 for a unit that has only one, or
    whose cost does not grow.
    """
    whole, shares = cost(widths[None])[0], np.zeros(len(widths))
    index, beside = cost.index(widths[None])[0], cost.beside(widths)
    for u, (at, own, values) in enumerate(zip(index, cost.candidates, beside)):
        low, high = max(at - 1, 0), min(at + 1, len(own) - 1)
        if high > low:
            costs = whole + values[[low, high]] - values[at]
            growth = np.log(costs[1] / costs[0]) / np.log(own[high] / own[low])
            shares[u] = max(growth, 0.0)
    return shares


def _checked(
    space: SearchSpace,
    widths: np.ndarray,
    losses: Sequence[float],
    weights: Sequence[float] | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    widths, losses = np.asarray(widths), np.asarray(losses, dtype=float)
    weights = np.ones(len(losses)) if weights is None else np.asarray(weights, dtype=float)
    count = len(losses)
    if not count or widths.shape != (count, len(space)) or weights.shape != (count,):
        raise ValueError(
            f'expected a record of widths (n, {len(space)}), losses (n,) and weights (n,) with n '
            f'of at least 1, got {widths.shape}, {losses.shape} and {weights.shape}'
        )
    if not np.isfinite(losses).all() or not (widths > 0).all():
        raise ValueError(
            f'expected finite losses and positive widths, got {(~np.isfinite(losses)).sum()} '
            f'losses that are not finite and {(widths <= 0).sum()} such widths; leave those '
            'subnets out of the record'
        )
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise ValueError(
            'expected weights that are finite, none negative and not all zero, got '
            f'{weights.min():g} to {weights.max():g}'
        )
    return widths, losses, weights
