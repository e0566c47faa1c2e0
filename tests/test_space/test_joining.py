import itertools

import numpy as np
import pytest

from mmpse.space import Cost, SearchSpace, StageTable, join, split_cost


def random_tables(rng):
    """Stages with a few boundary widths; costs and distances with and without ties."""
    count = rng.integers(1, 5)
    tables = []
    for k in range(count):
        rows = rng.integers(1, 8)
        distance = rng.random(rows) if rng.random() < 0.7 else rng.integers(0, 4, rows) / 4
        if rng.random() < 0.2:
            distance[rng.integers(rows)] = np.inf  # could not be judged
        tables.append(
            StageTable(
                inputs=rng.choice([8, 16, 24], rows) if k else np.zeros(rows, int),
                outputs=rng.choice([8, 16, 24], rows) if k < count - 1 else np.zeros(rows, int),
                cost=rng.integers(1, 20, rows).astype(float),
                distance=distance,
            )
        )
    return tables


def brute_force(tables, limit):
    found = []
    for rows in itertools.product(*(range(len(table.cost)) for table in tables)):
        ends = [(t.inputs[row], t.outputs[row]) for t, row in zip(tables, rows)]
        if all(a[1] == b[0] for a, b in itertools.pairwise(ends)):
            cost = sum(table.cost[row] for table, row in zip(tables, rows))
            distance = sum(table.distance[row] for table, row in zip(tables, rows))
            if cost <= limit and np.isfinite(distance):
                found.append((distance, cost, rows))
    return sorted(found)


def test_joined_subnets_are_those_of_brute_force():
    found = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        tables = random_tables(rng)
        limit = float(rng.integers(5, 60))
        expected, joined = brute_force(tables, limit), list(join(tables, limit))
        assert {j.rows for j in joined} == {rows for *_, rows in expected}  # each once
        assert len(joined) == len(expected)
        # all of them, in order, the optimum first
        assert np.allclose([j.distance for j in joined], [d for d, *_ in expected])
        costs = {rows: cost for _, cost, rows in expected}
        assert all(j.cost == costs[j.rows] <= limit for j in joined)
        found += bool(expected)
    assert 50 < found < 100  # some instances have no solution


def test_a_subnet_of_exactly_the_limit_is_found():
    one, two = np.zeros(1, int), np.full(1, 8)
    tables = [StageTable(one, two, np.array([3.0]), np.array([0.5])) for _ in range(2)]
    tables[1] = tables[1]._replace(inputs=two, outputs=one)
    assert [j.cost for j in join(tables, 6.0)] == [6.0]
    assert list(join(tables, 5.999)) == []


def test_cost_of_stages_adds_up():
    space = SearchSpace(dict(a=32, b=64, c=32, d=64), dict(type='x'))
    cost = Cost(space.names)
    cost.add(1000)
    for value, units in ((3, 'ab'), (5, 'bc'), (7, 'bb'), (2, 'c'), (9, 'cd'), (4, 'd')):
        cost.add(value, *units)
    stages = [('a', 'b'), ('b', 'c'), ('c', 'd')]
    rng = np.random.default_rng(0)
    rows = space.array([{u.name: rng.choice(u.candidates) for u in space.units} for _ in range(50)])
    parts = split_cost(cost, stages)
    total = 0
    for units, part in zip(stages, parts):
        total = total + part(rows[:, [space.names.index(unit) for unit in units]])
    assert np.array_equal(total, cost(rows))
    cost.add(1, 'a', 'd')
    with pytest.raises(ValueError, match='a and d together'):
        split_cost(cost, stages)
