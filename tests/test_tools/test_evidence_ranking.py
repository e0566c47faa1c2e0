"""The experiment of sections 1 and 3 of docs/results.md, and its units of work."""

import json

import numpy as np
import pytest
from evidence import cifar10_fixture, tools  # noqa: F401  fixtures
from mmpretrain.datasets import CIFAR10


@pytest.fixture
def tiny(monkeypatch):
    """A scale of four subnets and three steps."""
    import ranking

    scale = ranking.Scale(images=None, splits=5, epochs=3, seconds=(0.5,), bfloat16=True)
    monkeypatch.setitem(ranking.SCALES, 'tiny', scale)
    monkeypatch.setattr(ranking, 'SUBNETS', 4)
    monkeypatch.setattr(ranking, 'CALIBRATION', 1)
    monkeypatch.setattr(ranking, 'RECALIBRATIONS', (0, 1))
    return scale


@pytest.fixture
def rank(tiny, cifar10, tmp_path):
    import ranking

    def run(only):
        ranking.main(
            [
                *('--data-root', str(cifar10), '--scale', 'tiny', '--seeds', '1', '--only', only),
                *('--out', str(tmp_path / 'results/ranking'), '--work-dir', str(tmp_path / 'work')),
            ]
        )
        return tmp_path / 'results/ranking/resnet20_b64-tiny'

    return run


def test_killed_experiment_does_nothing_twice(rank, monkeypatch):
    import frame

    steps, after_train_iter = [], frame.Clock.after_train_iter

    def counting(clock, runner, *args, **kwargs):
        steps.append(runner.iter)
        if len(steps) == 5:  # in the second of three epochs of the second subnet
            raise KeyboardInterrupt
        after_train_iter(clock, runner, *args, **kwargs)

    monkeypatch.setattr(frame.Clock, 'after_train_iter', counting)
    with pytest.raises(KeyboardInterrupt):
        rank('alone_*')
    folder = rank('alone_*')
    # one step for every epoch of 64 images; the one that the kill interrupted is run again
    assert steps == [0, 1, 2, 0, 1] + [1, 2] + 2 * [0, 1, 2]
    records = {path: path.read_bytes() for path in folder.glob('alone_*.json')}
    assert len(records) == 4
    rank('alone_*')
    assert len(steps) == 13
    assert {path: path.read_bytes() for path in records} == records
    for content in map(json.loads, records.values()):
        assert content['steps'] == 3 and 0 <= content['test'] <= 100
        assert content['machine']['threads'] >= 1 and content['code'] and content['date']
        assert str(folder) not in json.dumps(content)  # no paths of this machine


def test_unknown_unit_is_named(rank):
    with pytest.raises(SystemExit, match='nothing matches none of the units of work: alone_'):
        rank('nothing')


def test_killed_supernet_keeps_the_full_network_it_starts_from(tiny, cifar10, tmp_path):
    import frame
    import ranking

    shares = []

    def advance(share):
        shares.append(share)
        if share > 0.7:
            raise KeyboardInterrupt

    def train(advance):
        def config(name):
            return frame.load_config(f'{name}_resnet20_b64', tiny, str(cifar10))

        way = 'parallel-sliced-pretrained'
        return ranking.train_supernet(config, way, 0, tmp_path / 'work', advance, 2.0)

    with pytest.raises(KeyboardInterrupt):
        train(advance)
    assert shares == sorted(shares) and shares[0] < 0.5 < shares[-1]
    fullnet = (tmp_path / 'work/fullnet.pth').read_bytes()
    later = []
    runner, figures = train(later.append)
    assert later[0] > 0.5 and (tmp_path / 'work/fullnet.pth').read_bytes() == fullnet
    assert figures['pretraining_steps'] >= 1 and figures['steps'] >= 1
    assert figures['train_seconds'] >= 2.0
    assert runner.model.backbone.conv1.out_channels == 16  # it is the supernet


def test_supernets_are_judged_without_the_test_set(rank, monkeypatch):
    read = []
    load_data_list = CIFAR10.load_data_list
    monkeypatch.setattr(
        CIFAR10, 'load_data_list', lambda self: read.append(self.split) or load_data_list(self)
    )
    folder = rank('supernet_[ps]*')
    assert set(read) == {'train'}
    ways = {}
    for path in folder.glob('supernet_*.json'):
        record = json.loads(path.read_text())
        ways[record['way']] = record
        assert len(record['scores']) == 4 and np.isfinite(record['losses']).all()
        assert record['train_seconds'] >= 0.5 and record['steps'] >= 1
    assert ways.keys() == {
        *('parallel-masked', 'parallel-sliced', 'sandwich', 'spos', 'stage-wise'),
        *(f'{way}-pretrained' for way in ('parallel-sliced', 'sandwich', 'spos', 'stage-wise')),
    }
    assert all(('pretraining_steps' in r) == way.endswith('-pretrained') for way, r in ways.items())
    assert ways['stage-wise']['distances'][-1] == 0  # the fullnet to itself


def test_more_and_less_recalibration(rank):
    record = json.loads(next(rank('recalibration_*').glob('recalibration_*.json')).read_text())
    scores = record['scores_of_batches']
    assert scores.keys() == {'0', '1'} and len(scores['0']) == len(scores['1']) == 4
    assert scores['0'] != scores['1'] and record['batch_size'] == 64
