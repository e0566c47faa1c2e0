"""The record of a supernet's training as evidence for widths."""

from __future__ import annotations

import numpy as np

from mmpse.space import Budget, SearchSpace

from .predictor import Predictor

FLOOR = 0.01  # of the median loss: what is less is taken for that


def levelled(iterations: np.ndarray, costs: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Logarithms of losses ``(n,)`` as if all were of the end of the training.

    Losses fall while a supernet is trained, and those of narrow subnets are higher: a regression on
    the time, its square and the logarithm of the cost tells one from the other, and what is due to
    the time is taken off.

    Args:
        iterations: When the losses were recorded ``(n,)``.
        costs: What the subnets cost ``(n,)``.
        losses: The losses, of which none is negative but by rounding.
    """
    logs = np.log(np.maximum(losses, max(FLOOR * np.median(losses), np.finfo(float).tiny)))
    last = iterations.max()
    if last == iterations.min():
        return logs
    before = (iterations - last) / (last - iterations.min())  # -1 to 0
    times = np.stack([before, before**2], axis=1)
    others = np.stack([np.ones(len(logs)), np.log2(costs)], axis=1)
    slopes = np.linalg.lstsq(np.concatenate([times, others], axis=1), logs, rcond=None)[0]
    return logs - times @ slopes[:2]


def predictor_of(
    space: SearchSpace,
    budget: Budget,
    reference: np.ndarray,
    iterations: np.ndarray,
    widths: np.ndarray,
    losses: np.ndarray,
) -> Predictor:
    """A predictor of the logarithm of the loss, to which late losses matter more.

    Args:
        reference: Subnet to improve on ``(units,)``.
        iterations, widths, losses: The record: ``(n,)``, ``(n, units)``, ``(n,)``.
    """
    level = levelled(iterations, budget.cost(widths), losses)
    weights = (iterations + 1) / (iterations.max() + 1)
    return Predictor(space, budget.cost, reference, widths, level, weights)


def best_widths(
    space: SearchSpace,
    budget: Budget,
    reference: np.ndarray,
    iterations: np.ndarray,
    widths: np.ndarray,
    losses: np.ndarray,
    count: int = 1,
) -> np.ndarray:
    """Subnets ``(subnets, units)`` whose gain over a reference is the surest by the record.

    Args:
        count: How many at most; see :func:`predictor_of` for the others.

    Returns:
        The best first; the reference where nothing is surely better.
    """
    predictor = predictor_of(space, budget, reference, iterations, widths, losses)
    found = predictor.best(budget, count=count)
    return found if len(found) else reference[None]
