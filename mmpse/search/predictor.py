"""The loss of a subnet, predicted from its widths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mmpse.errors import UserError
from mmpse.space import Budget, Cost, SearchSpace

from .allocate import allocate
from .ridge import Ridge

FEWEST = 4  # subnets from which anything can be told: two coefficients are always there
POWERS = (0.25, 0.0, 0.5, 1.0)  # of the widths; the first one unless another is clearly better
# Standard deviations of the refits between a gain and its lower bound. tools/evidence/simulate.py:
# 0 gains a little more, but is worse than uniform up to three times as often; 1 gains less.
ERRORS = 0.5
REACH = 3  # times as wide or narrow as in the reference: what is farther is predicted badly


class Notch(NamedTuple):
    """What it costs, and what it saves, to make a unit one candidate narrower."""

    unit: str
    width: int
    narrower: int
    loss: float  # added
    error: float  # of the added loss: its standard deviation over the refits
    saved: float  # share of the subnet's cost


class Predictor:
    """An additive model of the loss: ``a + sum_u b_u f(width_u / reference width_u)``.

    ``f`` falls with the width: ``f(r) = (r ** -p - 1) / p``, or ``-log(r)`` for ``p = 0``. The
    power ``p`` is 1/4 unless leave-one-out cross-validation says 0, 1/2 or 1 by more than a
    standard error.

    It is fitted by ridge regression to a record of subnets and losses, to find subnets that lose
    less than a reference of the same cost. What ridge draws to zero is how the slopes ``b_u``
    differ from what the cost alone would say: that a unit matters in proportion to its share of the
    reference's cost. So a record that tells nothing makes no subnet better than the reference
    unless it costs more, and it takes evidence to prefer one. How much evidence leave-one-out
    cross-validation says. The model is the mean of bootstrap refits, whose penalties are drawn in
    proportion to how well they predict: how far the refits are apart says how sure it is. Source:
    this project.

    The record may hold fewer subnets than there are units, and units whose width never changes:
    what it does not tell is as the cost says. Of fewer than four subnets, of equal losses or equal
    subnets nothing is learnt: every subnet has the mean loss.

    A predictor is not changed; a record that has grown is given to a new one (milliseconds).

    Args:
        cost: The cost that is limited, of several that of the budget's first resource.
        reference: The subnet to improve on ``(units,)``, the uniform one of the budget, say.
        widths: Subnets of the record ``(n, units)``. One that was seen often (the fullnet, say)
            belongs in it once, with its mean loss: what is odd about it does not average out.
        losses: Their losses ``(n,)``, or differences to the original network's on the same images;
            lower is better.
        weights: Of the subnets ``(n,)``, as one over the variance of their losses.
        refits: Number of bootstrap refits.
        seed: Of the bootstrap samples.

    Attributes:
        shares: Per cent by which the cost grows with one per cent of a unit's width ``(units,)``.
        power: The power ``p``.
        record: Widths, losses and weights that it was fitted to.

    Raises:
        ValueError: If the record has losses that are not finite.
    """

    def __init__(
        self,
        space: SearchSpace,
        cost: Cost,
        reference: np.ndarray,
        widths: np.ndarray,
        losses: Sequence[float],
        weights: Sequence[float] | None = None,
        refits: int = 30,
        seed: int = 0,
    ) -> None:
        widths, losses = np.asarray(widths), np.asarray(losses, dtype=float)
        weights = np.ones(len(losses)) if weights is None else np.asarray(weights, dtype=float)
        if not np.isfinite(losses).all():
            raise UserError(
                f'expected finite losses, got {(~np.isfinite(losses)).sum()} that are not; leave '
                'those subnets out of the record'
            )
        self.record = widths, losses, weights
        self.space, self.reference = space, np.asarray(reference)
        self._cost = cost
        self.shares = cost_shares(space, cost, self.reference)
        self.power = POWERS[0]
        self._constants = np.full(refits, np.average(losses, weights=weights))
        self._slopes = np.zeros((refits, len(space)))
        count = len(losses)
        if count < FEWEST or not np.ptp(losses) or not np.ptp(widths, axis=0).any():
            return

        fits = {}
        for power in POWERS:
            x = _falls(widths / self.reference, power)
            fixed = np.stack([np.ones(count), x @ self.shares], axis=1)
            fits[power] = Ridge(fixed, x, losses, weights)
        self.power = _power({power: fit.errors for power, fit in fits.items()})
        fit = fits[self.power]
        rng = np.random.default_rng(seed)
        samples = rng.multinomial(count, np.full(count, 1 / count), size=refits) * weights
        samples[~samples.any(axis=1)] = weights  # drawn were only subnets of weight zero
        a, b = fit.fit(samples, rng.choice(fit.penalties, size=refits, p=fit.likelihoods))
        self._constants, self._slopes = a[:, 0], b + a[:, 1:] * self.shares

    def of(self, widths: np.ndarray, losses: np.ndarray, weights: np.ndarray) -> Predictor:
        """The same of another record."""
        return Predictor(self.space, self._cost, self.reference, widths, losses, weights)

    def predict(self, widths: np.ndarray) -> np.ndarray:
        """Losses ``(subnets,)`` of subnets ``(subnets, units)``."""
        return self._falls(widths) @ self._slopes.mean(axis=0) + self._constants.mean()

    def lower_bound_gain(self, widths: np.ndarray, errors: float = ERRORS) -> np.ndarray:
        """By how much subnets ``(subnets, units)`` lose less than the reference, at least
        ``(subnets,)``: the mean gain minus so many standard deviations over the refits."""
        gains = self._falls(widths) @ -self._slopes.T
        return gains.mean(axis=1) - errors * gains.std(axis=1)

    def best(self, budget: Budget, errors: float = ERRORS, count: int = 1) -> np.ndarray:
        """The subnets within a budget whose gain over the reference has the highest lower bound.

        No unit is more than three times as wide or as narrow as in the reference.

        Args:
            errors: See :meth:`lower_bound_gain`.

        Returns:
            Integer array ``(count, units)`` at most, the best first. Only those whose bound is
            positive: it is empty where nothing is surely better than the reference.
        """
        share = self.reference / [unit.max_width for unit in self.space.units]
        found = allocate(
            self.space,
            budget,
            self.tables(),
            errors=errors,
            floor=share / REACH,
            ceiling=share * REACH,
            starts=self.reference[None],
            count=count,
        )
        return found[self.lower_bound_gain(found, errors) > 0]

    def tables(self) -> np.ndarray:
        """What each candidate of a unit adds to the loss of the reference, by every refit
        ``(refits, units, candidates)``; zero where a unit has fewer candidates."""
        table = self.space.table
        falls = self._falls(np.where(table, table, 1).T).T
        return np.where(table, self._slopes[:, :, None] * falls, 0.0)

    def notches(self) -> list[Notch]:
        """What a notch of each unit of the reference costs; units at their narrowest have none."""
        added, notches = self.tables(), []
        whole = self._cost(self.reference[None])[0]
        beside = self._cost.beside(self.space.table, self.reference)
        for u, unit in enumerate(self.space.units):
            at = unit.candidates.index(self.reference[u])
            if at:
                losses = added[:, u, at - 1]
                saved = float(beside[u, at] - beside[u, at - 1]) / whole
                pair = unit.candidates[at], unit.candidates[at - 1]
                notches.append(Notch(unit.name, *pair, losses.mean(), losses.std(), saved))
        return notches

    def _falls(self, widths: np.ndarray) -> np.ndarray:
        """``f`` of every width; both ``(subnets, units)``."""
        return _falls(np.asarray(widths) / self.reference, self.power)


def notch_table(notches: Sequence[Notch]) -> str:
    """A table of notches, those first that lose least for what they save."""

    def rate(notch: Notch) -> float:
        return notch.loss / notch.saved if notch.saved > 0 else np.inf

    rows = [('unit', 'notch', 'loss', '', 'cost', 'loss per 1 % of cost')]
    for notch in sorted(notches, key=rate):
        change = f'{notch.width} -> {notch.narrower}'
        loss, error = f'{notch.loss:+.4g}', f'+- {notch.error:.2g}'
        cost, of_cost = f'{-notch.saved:+.1%}', f'{rate(notch) / 100:.3g}'
        rows.append((notch.unit, change, loss, error, cost, of_cost))
    sizes = [max(map(len, column)) for column in zip(*rows)]
    return '\n'.join('  '.join(map(str.ljust, row, sizes)).rstrip() for row in rows)


def cost_shares(space: SearchSpace, cost: Cost, widths: np.ndarray) -> np.ndarray:
    """Per cent by which a cost grows with one per cent of each unit's width, ``(units,)``.

    From the candidates next to those of a subnet ``(units,)``; 0 for a unit that has only one, or
    whose cost does not grow.
    """
    whole, shares = cost(widths[None])[0], np.zeros(len(widths))
    for u, (unit, values) in enumerate(zip(space.units, cost.beside(space.table, widths))):
        own, at = unit.candidates, unit.candidates.index(widths[u])
        low, high = max(at - 1, 0), min(at + 1, len(own) - 1)
        if high > low:
            costs = whole + values[[low, high]] - values[at]
            growth = np.log(costs[1] / costs[0]) / np.log(own[high] / own[low])
            shares[u] = max(growth, 0.0)
    return shares


def _falls(ratios: np.ndarray, power: float) -> np.ndarray:
    return (ratios**-power - 1) / power if power else -np.log(ratios)


def _power(errors: dict[float, np.ndarray]) -> float:
    """The power that predicts best, if it is better than the first by more than a standard error;
    ``errors``: power -> squared errors of the subnets left out ``(n,)``."""
    best = min(errors, key=lambda power: errors[power].mean())
    better = errors[POWERS[0]] - errors[best]
    return best if better.mean() > better.std() / np.sqrt(len(better)) else POWERS[0]
