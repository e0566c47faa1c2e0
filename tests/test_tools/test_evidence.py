"""The experiments of docs/results.md, on images made up in CIFAR-10's form."""

import hashlib
import json
import pickle
import shutil
import sys

import numpy as np
import pytest
from conftest import ROOT
from mmpretrain.datasets import CIFAR10

from mmpse.registry import DATASETS


@pytest.fixture(autouse=True)
def tools(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'tools/evidence')
    yield
    for name in ('cost', 'downstream', 'frame', 'ranking', 'report', 'report_transfer', 'tables'):
        sys.modules.pop(name, None)


@pytest.fixture
def cifar10(tmp_path, monkeypatch, rng):
    """80 training and 20 test images; the first pixel of each says which one it is."""
    folder = tmp_path / 'data' / CIFAR10.base_folder
    folder.mkdir(parents=True)

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    def batch(name, count):
        images = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
        images[:, 0] = np.arange(count)
        content = dict(data=images, labels=rng.integers(0, 10, count).tolist())
        return [[name, write(name, content)]]

    monkeypatch.setattr(CIFAR10, 'train_list', batch('data_batch_1', 80))
    monkeypatch.setattr(CIFAR10, 'test_list', batch('test_batch', 20))
    labels = dict(label_names=list('abcdefghij'))
    monkeypatch.setattr(CIFAR10, 'meta', dict(CIFAR10.meta, md5=write('batches.meta', labels)))
    return folder.parent


@pytest.fixture
def tiny(monkeypatch):
    """A scale of four subnets and three steps."""
    import frame
    import ranking

    scale = frame.Scale(images=None, splits=5, epochs=3, seconds=(0.5,), bfloat16=True)
    monkeypatch.setitem(ranking.SCALES, 'tiny', scale)
    monkeypatch.setattr(ranking, 'SUBNETS', 4)
    monkeypatch.setattr(ranking, 'CALIBRATION', 1)
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


def test_killed_training_keeps_its_time(tiny, cifar10, tmp_path, monkeypatch):
    import frame

    monkeypatch.setattr(frame, 'INTERVAL', 1)
    shares = []

    def advance(share):
        shares.append(share)
        if len(shares) == 3:
            raise KeyboardInterrupt

    def train(seconds):
        cfg = frame.load_config('psenet_resnet20_b64', tiny, str(cifar10))
        cfg.custom_hooks[-1].execution = 'sliced'
        return frame.train(cfg, 0, tmp_path / 'work', advance, seconds=seconds)

    with pytest.raises(KeyboardInterrupt):
        train(1000)
    assert 0 < shares[0] < shares[1] < shares[2]
    seconds = shares[1] * 1000  # known to the last checkpoint
    runner, figures = train(seconds)  # already over
    assert figures['steps'] == 3 and len(shares) == 3
    (clock,) = [hook for hook in runner.hooks if isinstance(hook, frame.Clock)]
    assert clock.passed == pytest.approx(seconds)
    assert clock.rates == [0.1]  # not the one that the killed training had come to


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
        *('parallel-masked', 'parallel-sliced', 'sandwich', 'spos', 'stage-wise')
    }
    assert ways['stage-wise']['distances'][-1] == 0  # the fullnet to itself


@pytest.mark.parametrize('network', ['resnet20_b64', 'mobilenet-v2-w0p5_b128'])
@pytest.mark.parametrize('way', ['static', 'psenet', 'autoslim', 'spos', 'swp'])
def test_held_out_images_are_not_trained_on(tiny, cifar10, scope, network, way):
    import frame

    def images(loader):
        dataset = DATASETS.build(loader.dataset)
        return {int(dataset.dataset.get_data_info(k)['img'][0, 0, 0]) for k in range(len(dataset))}

    cfg = frame.load_config(f'{way}_{network}', tiny, str(cifar10))
    judged_by = frame.load_config(f'static_{network}', tiny, str(cifar10))
    trained, held_out = images(cfg.train_dataloader), images(judged_by.val_dataloader)
    assert len(trained) == 64 and len(held_out) == 16 and not trained & held_out
    if way != 'static':
        assert cfg.test_dataloader is None and cfg.val_dataloader is None
        assert cfg.model.backbone == judged_by.model.backbone


def test_unknown_unit_is_named(rank):
    with pytest.raises(SystemExit, match='nothing matches none of the units of work: alone_'):
        rank('nothing')


def record(**figures):
    return dict(
        seed=0,
        train_seconds=1.0,
        command='python tools/evidence/ranking.py --data-root DATA --only x',
        date='2026-01-01T00:00:00+00:00',
        seconds=2.0,
        cpu_seconds=1.5,
        machine=dict(device='a computer', threads=1, python='3.11', torch='2.11'),
        code='0' * 12,
        **figures,
    )


def test_page_follows_the_records(tmp_path):
    import report

    folder = tmp_path / 'results/ranking/net-tiny'
    folder.mkdir(parents=True)
    accuracies = [50.0, 60.0, 55.0, 70.0, 65.0]
    flops = [1, 2, 3, 4, 5]
    scores = {'spos': [1, 2, 3, 4, 5], 'parallel-sliced': [10, 30, 20, 50, 40]}
    subnets = [dict(resources=dict(flops=f * 10**6)) for f in flops]
    (folder / 'subnets.json').write_text(json.dumps(subnets))
    for k, accuracy in enumerate(accuracies):
        content = record(kind='alone', subnet=k, steps=9, test=accuracy, held_out=accuracy)
        (folder / f'alone_{k:02}_seed0.json').write_text(json.dumps(content))
    for way, values in scores.items():
        content = record(kind='supernet', way=way, seconds_allowed=60, steps=7, scores=values)
        (folder / f'supernet_{way}_60s_seed0.json').write_text(json.dumps(content))
    (folder / 'ranking_60s.md').write_text('What a person has to say.\n')
    report.main(['--results', str(tmp_path / 'results')])
    page = (tmp_path / 'results.md').read_text()
    # of ten pairs FLOPs, and SPOS with them, order two otherwise than the accuracies do
    assert '| FLOPs alone | 0.600 |' in page and '| single path (SPOS) | 0.600 |' in page
    assert '| parallel (PSE-Net), sliced | 1.000 | 1.000 | 0.00 |' in page
    under = page.partition('| parallel (PSE-Net), sliced | 1.000')[2].splitlines()
    first = next(line for line in under if line.startswith('**'))
    assert first == (
        '**parallel (PSE-Net), sliced (1.000) ranks above all rivals and reaches the goal of '
        '0.75.**'
    )
    assert 'What a person has to say.' in page and 'Not run: parallel (PSE-Net), masked' in page
    scores['parallel-sliced'] = scores['spos'][::-1]
    content['scores'] = scores['parallel-sliced']
    (folder / 'supernet_parallel-sliced_60s_seed0.json').write_text(
        json.dumps(dict(content, way='parallel-sliced'))
    )
    report.main(['--results', str(tmp_path / 'results')])
    page = (tmp_path / 'results.md').read_text()
    assert (
        '**parallel (PSE-Net), sliced (-0.600) ranks no better than FLOPs alone (0.600), '
        'single path (SPOS) (0.600) and misses the goal of 0.75.**'
    ) in page


def test_tables_of_benchmarks_are_copied_into_the_page(tmp_path, monkeypatch):
    import cost
    import report

    command = ['tools/benchmarks/sampling.py', '--widen-factor', '0.5', '--size', '64']
    command += ['--budgets', '50%', '--max-trials', '3000']
    monkeypatch.setitem(cost.BENCHMARKS, 'sampling', command)
    place = ['--out', str(tmp_path / 'results/cost'), '--work-dir', str(tmp_path / 'work')]
    cost.main(['--only', 'sampling', *place])
    record = json.loads((tmp_path / 'results/cost/sampling.json').read_text())
    assert record['command'] == 'python tools/evidence/cost.py --only sampling'
    report.main(['--results', str(tmp_path / 'results')])
    page = (tmp_path / 'results.md').read_text()
    assert len(record['rows']) == 4  # samplers
    for row in record['rows']:
        if row['seconds_per_1000'] is None:  # uniform draws found none
            continue
        assert f'| {row["sampler"]} | ' in page and f'| {row["seconds_per_1000"]:.3g} |' in page


def test_the_page_in_the_repository_is_that_of_its_records(tmp_path):
    import report

    shutil.copytree(ROOT / 'docs/results', tmp_path / 'results')
    report.main(['--results', str(tmp_path / 'results')])
    assert (tmp_path / 'results.md').read_text() == (ROOT / 'docs/results.md').read_text()
