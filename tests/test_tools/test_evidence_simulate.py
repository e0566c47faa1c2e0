"""Searches simulated on a table of networks."""

import itertools
import json

import numpy as np
import pytest
from evidence import tools  # noqa: F401  a fixture


@pytest.fixture
def table(tmp_path, rng):
    """256 networks of four units, the last of which matters little and costs much."""
    quarters = np.array(list(itertools.product(range(1, 5), repeat=4)), dtype=np.uint8)
    w = quarters.astype(np.int64)
    flops = 1000 + 300 * w[:, 0] * w[:, 1] + 200 * w[:, 1] * w[:, 2] + 500 * w[:, 2] * w[:, 3]
    truth = 90 + np.log2(w / 4) @ [0.5, 0.5, 0.5, 0.02]
    accuracy = truth[:, None] + 0.02 * rng.normal(size=(256, 3))
    shuffled = rng.permutation(256)
    path = tmp_path / 'table.npz'
    arrays = dict(quarters=quarters, flops=flops, accuracy=accuracy)
    np.savez(path, **{name: array[shuffled] for name, array in arrays.items()})
    return path


def test_the_predictor_beats_the_luckiest_score(table, tmp_path, capsys):
    import simulate

    out = tmp_path / 'record.json'
    searches = ['random', 'evolution', 'greedy', 'predictor', 'predictor, 2 finalists']
    simulate.main(
        [str(table), '--evaluations', '24', '--repetitions', '9', '--quarters', '2']
        + ['--out', str(out), '--searches', *searches]
    )
    record = json.loads(out.read_text())
    (budget,) = record['budgets']
    assert budget['flops'] == 1000 + 4 * (300 + 200 + 500)
    rows = {(row['search'], row['noise']): row for row in record['rows']}
    assert len(rows) == 15
    assert rows['predictor', 1]['scores'] == 24
    assert rows['predictor', 1]['worse'] == 0
    assert rows['predictor', 1]['gain'] > rows['random', 1]['gain'] > 0
    assert rows['predictor', 1]['gain'] <= budget['oracle'] + 0.05
    assert rows['predictor', 4]['gain'] > -0.05
    assert all(row['worse'] + row['kept'] <= 1 for row in rows.values())
    printed = capsys.readouterr().out
    assert 'Width 50%' in printed and '| greedy |' in printed


def test_searches_see_scores_only(table, rng):
    """With the same scores, the same network is found, whatever the accuracies are."""
    import simulate

    world = simulate.World(table, 2)
    for name, search in simulate.SEARCHES.items():
        seen = []

        def score(networks, seen=seen):
            seen.extend(networks)
            return world.widths[networks].sum(axis=1) + 0.01 * networks

        found = []
        for _ in range(2):
            found.append(search(world, score, np.random.default_rng(0), 24))
            world.accuracy = rng.permutation(world.accuracy)
        assert found[0] == found[1]
        assert world.cost(world.widths[found[:1]])[0] <= world.budget.high
        assert name == 'greedy' or len(seen) <= 48


def test_tables_that_do_not_do(table, tmp_path):
    import simulate

    with np.load(table) as arrays:
        arrays = dict(arrays)
    np.savez(tmp_path / 'part.npz', **{name: array[:100] for name, array in arrays.items()})
    with pytest.raises(SystemExit, match='has 100 networks, expected 256'):
        simulate.World(tmp_path / 'part.npz', 2)
    arrays['flops'][3] += 1
    np.savez(tmp_path / 'odd.npz', **arrays)
    with pytest.raises(SystemExit, match='no quadratic form'):
        simulate.World(tmp_path / 'odd.npz', 2)
