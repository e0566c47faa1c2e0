import numpy as np
import pytest

from mmpse.search.archive import Judged
from mmpse.search.pareto import pareto_front, pareto_order


@pytest.fixture
def judged(rng) -> list[Judged]:
    return [
        Judged(1, 0, 'prior', (k,), float(score), None, dict(flops=int(flops)))
        for k, (score, flops) in enumerate(rng.integers(20, size=(60, 2)))
    ]


def point(row):
    return row.score, row.resources['flops']


def dominated(a, b):
    (score, flops), (other, others) = point(a), point(b)
    return other >= score and others <= flops and (other, others) != (score, flops)


def test_front_is_what_no_subnet_dominates(judged):
    free = {point(a) for a in judged if not any(dominated(a, b) for b in judged)}
    front = [point(row) for row in pareto_front(judged)]
    assert set(front) == free and front == sorted(front)


def test_selection_goes_front_by_front_and_by_the_room_in_them(judged):
    ordered = pareto_order(judged)
    assert sorted(ordered) == sorted(judged)
    start, rest = 0, judged
    while rest:
        front = pareto_front(rest)
        room = {}
        span = np.array(point(front[-1])) - point(front[0])
        for k, row in enumerate(front):
            inside = 0 < k < len(front) - 1
            sides = (np.array(point(front[k + 1])) - point(front[k - 1])) / span if inside else None
            room[row.widths] = sides.sum() if inside else np.inf
        selected = ordered[start : start + len(front)]
        assert {row.widths for row in selected} == room.keys()
        rooms = [room[row.widths] for row in selected]
        assert rooms == sorted(rooms, reverse=True)
        start, rest = start + len(front), [row for row in rest if row.widths not in room]
