"""Joining subnets of stages, exactly."""

import heapq
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mmpse.errors import UserError

from .cost import Cost


class StageTable(NamedTuple):
    """The judged candidates of a stage, one per row of every array."""

    inputs: np.ndarray  # width of the boundary in front of the stage; any constant for the first
    outputs: np.ndarray  # width of the boundary behind it; any constant for the last
    cost: np.ndarray
    distance: np.ndarray  # a candidate whose distance is inf is not joined


class Joined(NamedTuple):
    """One candidate of every stage, with equal widths at every boundary."""

    distance: float
    cost: float
    rows: tuple[int, ...]  # the candidate of each stage


def join(tables: Sequence[StageTable], limit: float) -> Iterator[Joined]:
    """Yield all joined subnets that cost at most ``limit``, those of the least distance first.

    The distance of a joined subnet is the sum over its stages, and so is its cost. First, from the
    last stage to the first, dynamic programming finds for every boundary width which costs and
    distances the stages behind it can still reach: only those that are not dominated matter. With
    these as bounds, which are tight, a best-first search goes straight to each next best subnet.
    Nothing is rounded, so that the order is exact and the limit never exceeded.
    """
    fronts = _fronts(tables, limit)
    tie = itertools.count()
    heap = [(0.0, next(tie), Joined(0.0, 0.0, ()))]
    while heap:
        *_, joined = heapq.heappop(heap)
        stage = len(joined.rows)
        if stage == len(tables):
            yield joined
            continue
        table = tables[stage]
        fits = np.isfinite(table.distance)
        if stage:
            fits &= table.inputs == tables[stage - 1].outputs[joined.rows[-1]]
        for row in np.flatnonzero(fits).tolist():
            cost = joined.cost + table.cost[row]
            distance = joined.distance + table.distance[row]
            costs, distances = fronts[stage + 1].get(table.outputs[row], EMPTY)
            within = np.searchsorted(costs, limit - cost, 'right')
            if within:
                bound = distance + distances[within - 1]
                further = Joined(distance, cost, (*joined.rows, row))
                heapq.heappush(heap, (bound, next(tie), further))


Front = tuple[np.ndarray, np.ndarray]  # costs, ascending; the distances at them, descending
EMPTY: Front = (np.empty(0), np.empty(0))


def _fronts(tables: Sequence[StageTable], limit: float) -> list[dict[int, Front]]:
    """What the stages from the k-th on can reach, by the boundary width in front of them."""
    end = {width: (np.zeros(1), np.zeros(1)) for width in np.unique(tables[-1].outputs).tolist()}
    fronts = [end]
    least = np.cumsum([0.0, *(table.cost.min() for table in tables)])  # of the stages before
    for k, table in reversed(list(enumerate(tables))):
        behind, front = fronts[0], {}
        for width in np.unique(table.inputs).tolist():
            reached = []
            for row in np.flatnonzero(table.inputs == width):
                costs, distances = behind.get(table.outputs[row], EMPTY)
                within = np.searchsorted(costs, limit - least[k] - table.cost[row], 'right')
                reached.append(
                    (costs[:within] + table.cost[row], distances[:within] + table.distance[row])
                )
            front[width] = _pareto(*(np.concatenate(column) for column in zip(*reached)))
        fronts.insert(0, front)
    return fronts


def _pareto(costs: np.ndarray, distances: np.ndarray) -> Front:
    """The points that none of the others beats in both."""
    order = np.lexsort((distances, costs))
    costs, distances = costs[order], distances[order]
    best = np.minimum.accumulate(np.concatenate([[np.inf], distances]))[:-1]
    return costs[distances < best], distances[distances < best]


def split_cost(cost: Cost, stages: Sequence[Sequence[str]]) -> list[Cost]:
    """Split a cost into one of every stage; their sum is the whole.

    What belongs to several stages (the boundary's own share) counts in the first of them.

    Args:
        stages: The units of each stage.

    Raises:
        ValueError: If the cost has a share of two units that are in no stage together.
    """
    parts = [Cost(units) for units in stages]
    parts[0].constant = cost.constant
    shares = [((k,), value) for k, value in enumerate(cost.linear)]
    shares += [(pair, cost.quadratic[pair]) for pair in zip(*np.nonzero(cost.quadratic))]
    for numbers, value in shares:
        own = [cost.names[k] for k in numbers]
        part = next((p for p, units in zip(parts, stages) if set(own) <= set(units)), None)
        if part is None:
            raise UserError(
                f'the cost has a share of {" and ".join(own)} together, which no stage holds '
                'both; choose stages that do, or another resource'
            )
        part.add(value, *own)
    return parts
