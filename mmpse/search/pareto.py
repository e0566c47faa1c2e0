"""Score against cost: which judged subnets no other one beats in both."""

from collections.abc import Sequence

import numpy as np

from .archive import Judged


def pareto_front(judged: Sequence[Judged], resource: str = 'flops') -> list[Judged]:
    """The subnets than which none is cheaper with a score as high, by ascending cost."""
    front: list[Judged] = []
    for row in sorted(judged, key=lambda row: (row.resources[resource], -row.score, row.widths)):
        if not front or row.score > front[-1].score:
            front.append(row)
    return front


def pareto_order(judged: Sequence[Judged], resource: str = 'flops') -> list[Judged]:
    """Subnets in the order in which NSGA-II selects them (Deb et al., 2002).

    The front first, then the front of the others, and so on; within a front, those first that have
    the most room around them: the ends, then by the distance between both neighbours.
    """
    ordered, rest = [], list(judged)
    while rest:
        front = pareto_front(rest, resource)
        points = np.array([(row.resources[resource], row.score) for row in front])
        room = np.full(len(front), np.inf)
        span = np.ptp(points, axis=0)
        if len(front) > 2:  # both objectives rise along the front, so neither span is 0
            room[1:-1] = ((points[2:] - points[:-2]) / span).sum(axis=1)
        ordered += [front[k] for k in np.argsort(-room, kind='stable')]
        chosen = {row.widths for row in front}
        rest = [row for row in rest if row.widths not in chosen]
    return ordered
