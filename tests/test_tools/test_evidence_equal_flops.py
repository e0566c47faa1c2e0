"""The experiment of section 2 of docs/results.md."""

import itertools
import json

import pytest
from evidence import cifar10_fixture, tools, write  # noqa: F401  fixtures
from mmpretrain.datasets import CIFAR10


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
    import report_equal_flops
    import report_parts

    pytest.importorskip('torch_pruning')
    everything = len(methods) == len(report_equal_flops.METHODS)
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
    samplers = [f'search_{method}_50_seed0' for method in report_parts.SAMPLERS]
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
