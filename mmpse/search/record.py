"""The record of a supernet's training as evidence for widths."""

import numpy as np

from mmpse.space import Budget, SearchSpace

from .predictor import ERRORS, Predictor

FLOOR = 0.01  # of the median loss: what is less is taken for that
FEWEST = 8  # judged subnets that a predictor is refitted for
SURE = (ERRORS, 0.0, 2 * ERRORS)  # standard deviations between a gain and its lower bound


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


def merged(
    widths: np.ndarray, values: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every subnet once, with the weighted mean of its values and the sum of its weights.

    What is odd about a subnet does not average out over its entries. As one row it cannot vouch
    for itself when rows are left out or drawn anew.
    """
    rows, number = np.unique(widths, axis=0, return_inverse=True)
    number = number.reshape(-1)
    total = np.bincount(number, weights)
    return rows, np.bincount(number, weights * values) / total, total


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
    return Predictor(space, budget.cost, reference, *merged(widths, level, weights))


def refitted(predictor: Predictor, widths: np.ndarray, values: np.ndarray) -> Predictor:
    """A predictor that knows judged subnets too.

    What was judged is in another unit than what training recorded. It is put on the scale of the
    predictor by a regression on its predictions, and weighs as much as it scatters around them.
    Where it contradicts them, or is too little to tell, the predictor stays as it is.

    Args:
        widths: Judged subnets ``(n, units)``.
        values: What they lost, or minus their scores ``(n,)``.
    """
    if len(values) < FEWEST:
        return predictor
    predicted = predictor.predict(widths)
    slope, level = np.polyfit(predicted, values, 1) if np.ptp(predicted) else (0.0, 0.0)
    if slope <= 0:
        return predictor
    values = (values - level) / slope
    own_widths, own_values, own_weights = predictor.record
    scatter = np.square(own_values - predictor.predict(own_widths)) * own_weights
    other = max(np.square(values - predicted).mean(), np.finfo(float).tiny)
    weights = np.full(len(values), scatter.mean() / other)
    record = (own_widths, widths), (own_values, values), (own_weights, weights)
    return predictor.of(*merged(*map(np.concatenate, record)))


def best_few(predictor: Predictor, budget: Budget, count: int) -> np.ndarray:
    """Subnets ``(subnets, units)`` that may well be better than the reference.

    Those of the surest gain by several measures of being sure, in turn: near one another they
    would differ in a unit or two only, and stand or fall together.
    """
    found = [predictor.best(budget, errors=errors, count=count) for errors in SURE]
    rows: dict[tuple[int, ...], None] = {}
    for k in range(count):
        rows.update((tuple(few[k].tolist()), None) for few in found if k < len(few))
    return np.array(list(rows)[:count], dtype=np.int64).reshape(-1, len(predictor.space))


def best_widths(
    space: SearchSpace, budget: Budget, reference: np.ndarray, *record: np.ndarray
) -> np.ndarray:
    """The widths ``(units,)`` whose gain over a reference is the surest by the record.

    They are the reference where nothing is surely better. Arguments are as of
    :func:`predictor_of`.
    """
    found = predictor_of(space, budget, reference, *record).best(budget)
    return found[0] if len(found) else reference
