"""Rows of a supernet's record: each is made once, and a killed run goes on with the next."""

import json
import sys
from types import SimpleNamespace

import pytest
from evidence import tools  # noqa: F401  a fixture

FIGURES = dict(flops=0.5, cut=60.0, val=70.0, test=68.0, epochs=3, cpu_seconds=20.0, widths=[8])


@pytest.fixture
def done(tmp_path, monkeypatch):
    """What an experiment is asked for; its first pruning to 25 % is killed."""
    import supernets

    done = []

    class Experiment:
        def __init__(self, name, kind, seed):
            self.model = SimpleNamespace(metric='accuracy/top1')
            self.kind = supernets.KINDS[kind]
            self.folder = tmp_path / f'{name}_{kind}_{seed}'

        def train(self, crew):
            done.append('train')
            return dict(seconds=11.0, cpu_seconds=10.0)

        def search(self, search, budget):
            done.append((search, budget))
            return 'widths', dict(judged=24 if len(done) == 2 else 0, search_seconds=5.0)

        def prune(self, budget, folder, crew, subnet, inherit):
            assert subnet == 'widths'
            done.append(folder)
            if '25' in folder and done.count(folder) == 1:
                raise KeyboardInterrupt
            return FIGURES

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(supernets, 'Experiment', Experiment)
    return done


def run(monkeypatch, *words):
    import supernets

    line = ['supernets.py', 'resnet20_cifar10', '--kind', 'psenet', '--searches', 'predictor']
    monkeypatch.setattr(sys, 'argv', [*line, *words])
    supernets.main()
    return json.loads((supernets.RECORDS / 'resnet20_cifar10_psenet_0.json').read_text())


def test_a_killed_record_goes_on_with_the_next_row(done, monkeypatch):
    budgets = '--budgets', '50%', '25%'
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, *budgets)
    record = run(monkeypatch, *budgets)
    first, killed = 'predictor_50_pruned', 'predictor_25_pruned'
    searches = ('predictor', '50%'), ('predictor', '25%')
    assert done == ['train', searches[0], first, searches[1], killed, searches[1], killed]
    assert [row['budget'] for row in record['rows']] == ['50%', '25%']
    assert record['cpu_seconds'] == 10 + 20 + 20  # the searches stand apart
    (row, _) = record['rows']
    assert row.items() > FIGURES.items() and row['judged'] == 24 and not row['inherit']
    assert row['command'].endswith('--seed 0 --budgets 50% --searches predictor')


def test_inherited_weights_make_rows_of_their_own(done, monkeypatch):
    run(monkeypatch, '--budgets', '50%')
    record = run(monkeypatch, '--budgets', '50%', '--inherit')
    assert done.count('train') == 1 and done[-1] == 'predictor_50_pruned_inherit'
    assert [row['inherit'] for row in record['rows']] == [False, True]
    # the second search found all in its archive: what it took is what the first one took
    assert [row['judged'] for row in record['rows']] == [24, 24]
    assert record['rows'][1]['command'].endswith('--inherit')
