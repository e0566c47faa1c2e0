"""The experiments of docs/results.md, on images made up in CIFAR-10's form."""

import hashlib
import itertools
import json
import pickle
import shutil
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from mmpretrain.datasets import CIFAR10

from mmpse.registry import DATASETS


@pytest.fixture(autouse=True)
def tools(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'tools/evidence')
    yield
    for name in [path.stem for path in (ROOT / 'tools/evidence').glob('*.py')]:
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
    assert runner.model.backbone.subnet is None  # it is the supernet


def test_training_by_the_clock_is_tested_at_its_end(tiny, cifar10, tmp_path, monkeypatch):
    import frame

    ticks = itertools.count()
    monkeypatch.setattr(frame, 'now', lambda: next(ticks))
    monkeypatch.setattr(frame, 'INTERVAL', 2)
    cfg = frame.load_config('static_resnet20_b64', tiny, str(cifar10))
    runner, figures = frame.train(cfg, 0, tmp_path / 'work', lambda share: None, seconds=3)
    assert figures['steps'] == 3 and (tmp_path / 'work/iter_2.pth').exists()
    end = {key: value.clone() for key, value in runner.model.state_dict().items()}
    runner.val()
    runner.test()
    assert all(torch.equal(end[key], value) for key, value in runner.model.state_dict().items())


def test_fine_tuning_goes_on_with_its_own_checkpoints(tiny, cifar10, tmp_path, monkeypatch):
    """`load_from` is where it starts, neither what it resumes nor time that it took."""
    import frame

    ticks, loaded, shares = itertools.count(), [], []
    monkeypatch.setattr(frame, 'now', lambda: next(ticks))
    load_checkpoint = frame.Runner.load_checkpoint

    def spy(runner, path, *args, **kwargs):
        loaded.append(path)
        return load_checkpoint(runner, path, *args, **kwargs)

    monkeypatch.setattr(frame.Runner, 'load_checkpoint', spy)

    def train(name, load_from=None):
        cfg = frame.load_config('static_resnet20_b64', tiny, str(cifar10))
        cfg.load_from = load_from
        return frame.train(cfg, 0, tmp_path / name, advance, epochs=2)

    def advance(share):
        shares.append(share)
        if len(shares) == 4:  # the second epoch of the fine-tuning
            raise KeyboardInterrupt

    _, figures = train('first')
    first, own = str(tmp_path / 'first/epoch_2.pth'), str(tmp_path / 'second/epoch_1.pth')
    with pytest.raises(KeyboardInterrupt):
        train('second', first)
    _, again = train('second', first)
    assert loaded == [first, own] and shares == [0.0, 0.5, 0.0, 0.5, 0.5]
    assert again == figures  # as many steps, and as long


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


@pytest.fixture
def equal_flops(cifar10, tmp_path, monkeypatch):
    """The command at a scale of some steps, by a clock that ticks whenever it is looked at."""
    import equal_flops
    import frame

    ticks = itertools.count()
    for module in (equal_flops, frame):
        monkeypatch.setattr(module, 'now', lambda: next(ticks) / 10)
    few = dict(train_cfg=dict(calibration=1, population=2, generations=1))
    scale = equal_flops.Scale(
        images=None,
        splits=5,
        bfloat16=True,
        total=1.0,
        supernet=0.5,
        searches={
            'mmpse.RandomSearchLoop': few,
            'mmpse.EvolutionSearchLoop': {
                'train_cfg': dict(few['train_cfg'], parents=1, mutants=1)
            },
            'mmpse.StageWiseSearchLoop': {
                'train_cfg': dict(calibration=1, candidates=21, rounds=1, joined=1)
            },
            'mmpse.GreedySearchLoop': {
                'train_cfg': dict(calibration=1),
                'model.backbone.ratios': [0.2, 1.0],
            },
        },
    )
    monkeypatch.setitem(equal_flops.SCALES, 'tiny', scale)
    monkeypatch.setattr(equal_flops, 'BUDGETS', ('50%',))
    monkeypatch.setattr(equal_flops, 'PRUNING_STEPS', 10)

    def run(*only):
        place = tmp_path / 'results/equal_flops'
        equal_flops.main(
            [
                *('--data-root', str(cifar10), '--scale', 'tiny', '--seeds', '1', '--only', *only),
                *('--out', str(place), '--work-dir', str(tmp_path / 'work')),
            ]
        )
        return place / 'resnet20_b64-tiny'

    return run


@pytest.mark.parametrize(
    'methods',
    [
        ('uniform', 'evolution', 'torch-pruning'),
        pytest.param(
            (
                *('uniform', 'evolution', 'evolution-pretrained', 'stage-wise'),
                *('torch-pruning', 'random', 'greedy'),
            ),
            marks=pytest.mark.slow,
        ),
    ],
    ids=len,
)
def test_every_method_has_the_same_time_and_one_look_at_the_test_set(
    equal_flops, monkeypatch, methods
):
    import equal_flops as command
    import report_equal_flops as report

    pytest.importorskip('torch_pruning')
    everything = len(methods) == len(report.METHODS)
    if not everything:
        monkeypatch.setattr(command, 'METHODS', {m: command.METHODS[m] for m in methods})
        monkeypatch.setattr(command, 'SAMPLERS', {})
    read = []
    load_data_list = CIFAR10.load_data_list
    monkeypatch.setattr(
        CIFAR10, 'load_data_list', lambda self: read.append(self.split) or load_data_list(self)
    )
    equal_flops('supernet_*', 'search_*')
    assert read and set(read) == {'train'}
    read.clear()
    folder = equal_flops('result_*')
    results = [json.loads(path.read_text()) for path in folder.glob('result_*.json')]
    searched = [m for m in methods if m not in ('uniform', 'torch-pruning')]
    assert {(r['method'], r['warm'], r['free']) for r in results} == {
        *((method, False, False) for method in methods),
        *((method, True, False) for method in searched),
        *((method, False, True) for method in searched),
    }
    assert read.count('test') == len(results)
    full = 41_218_688  # FLOPs of the fullnet
    for result in results:
        spent = [result[f'{part}_seconds'] for part in ('supernet', 'search', 'train')]
        counted = spent[2] if result['free'] else sum(spent)
        assert counted == pytest.approx(1.0, abs=0.25)  # the step at the end is finished
        assert 0.3 < result['flops'] / full <= 0.5 and result['steps'] > 0
        assert 0 <= result['test'] <= 100
        found = result['method'] != 'uniform'
        assert (spent[0] > 0) == (spent[1] > 0) == found
    searches = {p.stem: json.loads(p.read_text()) for p in folder.glob('search_random*.json')}
    samplers = [f'search_{method}_50_seed0' for method in report.SAMPLERS]
    assert searches.keys() == set(samplers if everything else [])
    assert len({r['judged'] for r in searches.values()}) <= 1
    for path in folder.glob('*.json'):
        assert str(folder.parents[3]) not in path.read_text()  # no paths of this machine


def test_what_comes_before_must_be_there(equal_flops, tmp_path, monkeypatch):
    import importlib.util

    folder = tmp_path / 'results/equal_flops/resnet20_b64-tiny'
    with pytest.raises(SystemExit, match='run this unit first, with --only search_evolution_50'):
        equal_flops('result_evolution_50_seed0')
    with pytest.raises(SystemExit, match='run this unit first, with --only supernet_parallel'):
        equal_flops('search_evolution_50_seed0')
    write(folder, 'supernet_parallel-sliced_seed0', kind='supernet')  # from another machine
    with pytest.raises(SystemExit, match='give the same --work-dir'):
        equal_flops('search_evolution_50_seed0')
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(SystemExit, match='pip install torch-pruning'):
        equal_flops('*torch-pruning*')


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
    for way, seconds in (('n=8', 60), ('parallel-sliced', 240)):  # the parts are compared at 60 s
        changed = dict(content, way=way, seconds_allowed=seconds, scores=scores['spos'])
        (folder / f'supernet_{way}_{seconds}s_seed0.json').write_text(json.dumps(changed))
    (folder / 'ranking_60s.md').write_text('What a person has to say.\n')
    report.main(['--results', str(tmp_path / 'results')])
    page = (tmp_path / 'results.md').read_text()
    # of ten pairs FLOPs, and SPOS with them, order two otherwise than the accuracies do
    assert '| FLOPs alone | 0.600 |' in page and '| single path (SPOS) | 0.600 |' in page
    assert '| parallel (PSE-Net), sliced | 1.000 | 1.000 | 0.00 |' in page
    under = page.partition('| parallel (PSE-Net), sliced | 1.000')[2].splitlines()
    assert under[0].endswith('| 1.00 | 1 |')  # as they follow the accuracies, beside FLOPs too
    first = next(line for line in under if line.startswith('**'))
    assert first == (
        '**parallel (PSE-Net), sliced (1.000) ranks above all rivals and reaches the goal of '
        '0.75.**'
    )
    section = page.partition('## 3. What each part brings')[2].partition('## 4.')[0]
    assert '#### Supernets trained for 60 s' in section and 'for 240 s' not in section
    assert '| parallel (PSE-Net), sliced, n=4 | 7 | 1.000 |' in section
    assert '| n=8 | 7 | 0.600 | 5.0 | 3.0 | 1 |' in section
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


def write(folder, name, **figures):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f'{name}.json').write_text(json.dumps(record(**figures)))


def test_page_says_who_wins_at_equal_flops(tmp_path):
    import report

    folder = tmp_path / 'results/equal_flops/resnet20_b64-small'

    def result(method, test, seed=0, **variant):
        flags = dict(dict(warm=False), **variant)  # older records say nothing of free
        write(
            folder,
            f'result_{method}_50_{"_".join(variant)}_seed{seed}',
            **dict(kind='result', method=method, budget='50%', flops=2_000_000, steps=7, **flags),
            **dict(supernet_seconds=100, search_seconds=50, seconds_allowed=300),
            **dict(held_out=test - 1, test=test),
        )

    def page():
        report.main(['--results', str(tmp_path / 'results')])
        return (tmp_path / 'results.md').read_text()

    result('uniform', 60.0)
    result('uniform', 62.0, seed=1)
    result('evolution', 58.0)
    result('evolution', 64.0, warm=True)
    text = page()
    assert '| uniform pruning | 2.00 ± 0.00 | 61.00 ± 1.41 | 60.00 ± 1.41 | 2 | 100 | 50 |' in text
    table, _, under = text.partition('#### At 50% of the FLOPs')[2].partition('**')
    assert table.rstrip().endswith('|')  # the verdict is the first line under the table
    assert under.partition('**')[0] == (
        "evolution from the prior (PSE-Net), from the supernet's weights wins (64.00 %); ours, "
        'evolution from the prior (PSE-Net) (58.00), loses to uniform pruning (61.00); ours, '
        "evolution from the prior (PSE-Net), from the supernet's weights (64.00), beats every "
        'rival.'
    )
    assert 'Not run: random search (parallel supernet), greedy' in text
    assert 'retrained for the whole time' not in text
    result('evolution', 65.0, warm=False, free=True)
    free = page().partition('FLOPs, retrained for the whole time')[2].partition('.**')[0]
    assert '61.00 ± 1.41' in free and '| 64.00 | 63.00 |' not in free
    assert free.endswith(
        'evolution from the prior (PSE-Net) wins (65.00 %); ours, evolution from the prior '
        '(PSE-Net) (65.00), beats every rival'
    )
    assert 'Not run: `python tools/evidence/equal_flops.py --data-root DATA --network mob' in text


def test_page_compares_samplers_and_recalibration(tmp_path):
    import report

    subnets = [dict(resources=dict(flops=k * 10**6)) for k in range(1, 5)]
    ranked = tmp_path / 'results/ranking/net-tiny'
    for k in range(4):
        figures = dict(subnet=k, steps=9, test=50.0 + k, held_out=50.0)
        write(ranked, f'alone_{k:02}_seed0', kind='alone', **figures)
    (ranked / 'subnets.json').write_text(json.dumps(subnets))
    scores = {'0': [10.0, 10.0, 10.0, 10.0], '8': [20.0, 30.0, 40.0, 50.0]}
    figures = dict(seconds_allowed=60, batch_size=64, steps=7, scores_of_batches=scores)
    write(ranked, 'recalibration_60s_seed0', kind='recalibration', **figures)
    searched = tmp_path / 'results/equal_flops/net-tiny'
    bests = {'random': 40.0, 'random-cost': 42.0, 'random-loss': 39.0, 'random-prior': 41.0}
    for method, best in bests.items():
        figures = dict(scores=[best, best - 10], judged=2, trials=10, accepted=4, budget='25%')
        write(
            searched, f'search_{method}_seed0', kind='search', method=method, score=best, **figures
        )
    report.main(['--results', str(tmp_path / 'results')])
    page = (tmp_path / 'results.md').read_text()
    assert '| 0 | – | 10.0 | 10.0 | 1 |' in page and '| 8 | 1.000 | 50.0 | 35.0 | 1 |' in page
    assert '| prior: loss and cost | 2.5 | 41.00 | 36.00 | 1 |' in page
    assert (
        '**The prior of loss and cost (41.00) finds nothing better than cost alone (42.00).**'
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
