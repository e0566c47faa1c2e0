"""The tools as a user starts them."""

import json
import os
import socket
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, small
from mmengine.config import Config

from mmpse.engine import read_archive
from mmpse.models import SlimmableMobileNetV2, measure
from mmpse.space import Subnet

QUICK = ROOT / 'configs/quickstart'


def run(*command, expect=0, **kwargs):
    result = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, cwd=ROOT, **kwargs
    )
    assert result.returncode == expect, result.stdout[-2000:] + result.stderr[-4000:]
    return result


@pytest.fixture
def supernet_file(supernet_cfg, tmp_path):
    supernet_cfg.train_cfg.max_epochs = 6
    supernet_cfg.default_hooks.checkpoint.interval = 1
    supernet_cfg.default_hooks.logger.interval = 1
    supernet_cfg.log_level = 'INFO'
    path = tmp_path / 'supernet.py'
    supernet_cfg.dump(path)
    return path


def run_and_kill(command, when):
    """Start a tool and kill -9 it as soon as it has logged the text ``when``."""
    with subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        for line in process.stdout:
            if when in line:
                process.kill()
                return
    raise AssertionError(f'it ended without logging {when!r}')


def test_make_subnet_writes_a_uniform_subnet(tmp_path, scope):
    out = tmp_path / 'half.json'
    run(
        *('tools/make_subnet.py', QUICK / 'search_mobilenet-v2_digits.py'),
        *('--flops', '50%', '--input-shape', 3, 32, 32, '-o', out),
    )
    subnet = Subnet.load(out)
    space = SlimmableMobileNetV2().search_space
    assert subnet in [space.uniform(r / 1000) for r in range(1001)]
    model = Config.fromfile(QUICK / 'search_mobilenet-v2_digits.py').model.to_dict()
    half = measure(model, space.fullnet, (3, 32, 32))['flops'] / 2
    assert subnet.resources['flops'] == measure(model, subnet, (3, 32, 32))['flops']
    assert abs(subnet.resources['flops'] / half - 1) < 0.2


def test_make_subnet_out_of_reach(tmp_path):
    result = run(
        *('tools/make_subnet.py', QUICK / 'search_mobilenet-v2_digits.py'),
        *('--flops', '900M', '--input-shape', 3, 32, 32, '-o', tmp_path / 'x.json'),
        expect=1,
    )
    assert 'this space reaches from' in result.stderr and not (tmp_path / 'x.json').exists()


def test_missing_checkpoint_is_named():
    result = run('tools/test.py', QUICK / 'retrain_mobilenet-v2_digits.py', 'no.pth', expect=1)
    assert 'no checkpoint at no.pth; train one with tools/train.py' in result.stderr


def test_demo_commands_are_ones_a_user_can_copy():
    sys.path.insert(0, str(ROOT / 'tools'))
    try:
        import demo
    finally:
        sys.path.pop(0)
    jobs = dict(demo.steps(ROOT / 'work', seed=3, transfer=True))
    assert len(jobs) == 23
    for command in jobs.values():
        assert (ROOT / command[0]).is_file()
        for part in command[1:]:
            assert not part.startswith('configs/') or (ROOT / part).is_file()
    trained = {part for command in jobs.values() for part in command if part.endswith('.pth')}
    for path in trained:  # what a step reads, an earlier one writes as its last checkpoint
        name, checkpoint = path.rpartition('=')[2].split('/')[-2:]
        config = Config.fromfile(ROOT / jobs[name][1])
        assert checkpoint == f'epoch_{config.train_cfg.max_epochs}.pth'


def test_benchmarks_write_ratios(tmp_path):
    out = tmp_path / 'step.json'
    run(
        *('tools/benchmarks/train_step.py', '--networks', 'MobileNetV2-0.5x', '--rounds', 1),
        *('--size', 64, '--batch', 8, '--n', 2, '--dtypes', 'float32', '--json', out),
    )
    rows = {(row['layout'], row['mode'], row['n']): row for row in json.loads(out.read_text())}
    assert rows.keys() == {
        (layout, *mode)
        for layout in ('NCHW', 'channels_last')
        for mode in (
            *(('plain', 1), ('masked', 2), ('sliced', 2)),
            *(('sandwich', 4), ('spos', 1)),
        )
    }
    for (_, mode, n), row in rows.items():
        assert mode != 'plain' or (row['ratio'] == 1 and row['memory_ratio'] == 1)
        images = 8 * (n if mode == 'sandwich' else 1)
        assert row['subnet_images_per_s'] == pytest.approx(images / row['seconds'])
        assert 0.3 < row['memory_ratio'] < 1.2

    out, half = tmp_path / 'latency.json', tmp_path / 'half.json'
    SlimmableMobileNetV2().search_space.uniform(0.5).save(half)
    run(
        *('tools/benchmarks/latency.py', QUICK / 'retrain_mobilenet-v2_digits.py', '--rounds', 2),
        *('--subnets', 'full=None', f'half={half}', '--input-shape', 3, 32, 32, '--json', out),
    )
    assert [row['name'] for row in json.loads(out.read_text())] == ['full', 'half']


@pytest.mark.slow
@pytest.mark.parametrize(
    'when', ['Epoch(train) [1][1/2]', 'Saving checkpoint at 2 epochs', 'Epoch(train) [4][2/2]']
)
def test_supernet_training_survives_kill_9(supernet_file, tmp_path, when):
    """Killed at some moment of the training and resumed: the same weights and record."""
    command = ['tools/train.py', supernet_file, '--work-dir']
    run(*command, tmp_path / 'whole')
    killed = tmp_path / 'killed'
    run_and_kill([*command, killed], when)
    run(*command, killed, '--resume')
    whole, resumed = (
        torch.load(path / 'epoch_6.pth', weights_only=False)
        for path in (tmp_path / 'whole', killed)
    )
    for key, value in whole['state_dict'].items():
        assert torch.equal(value, resumed['state_dict'][key]), key
    record, again = (state['mmpse_supernet']['record'] for state in (whole, resumed))
    assert all(torch.equal(record[key], again[key]) for key in record)


@pytest.mark.slow
def test_search_survives_kill_9(supernet_file, digits, tmp_path):
    run('tools/train.py', supernet_file, '--work-dir', tmp_path / 'supernet')
    cfg = small(QUICK / 'search_mobilenet-v2_digits.py', digits, tmp_path)
    cfg.load_from = str(tmp_path / 'supernet/epoch_6.pth')
    cfg.log_level = 'INFO'
    cfg.train_cfg.update(population=10, generations=4, parents=3, mutants=5, calibration=2)
    cfg.dump(tmp_path / 'search.py')
    command = ['tools/train.py', tmp_path / 'search.py', '--work-dir']
    run(*command, tmp_path / 'whole')
    killed = tmp_path / 'killed'
    for when in ('search space:', 'generation 1/4', 'generation 3/4'):
        run_and_kill([*command, killed, '--resume'], when)
    run(*command, killed, '--resume')
    assert read_archive(killed / 'archive.db') == read_archive(tmp_path / 'whole/archive.db')
    best, whole = (
        json.loads((path / 'best_subnet.json').read_text()) for path in (killed, tmp_path / 'whole')
    )
    assert best == whole


@pytest.mark.slow
def test_two_processes_train_one_supernet(supernet_file, tmp_path):
    """Different subnets on every rank, one set of weights, the losses of both in the record."""
    cfg = Config.fromfile(supernet_file)
    cfg.train_cfg.max_epochs = 2
    cfg.train_dataloader.batch_size = 16
    cfg.custom_hooks.append(dict(type='CompareRanks'))
    cfg.custom_imports.imports.append('compare_ranks')
    cfg.dump(tmp_path / 'two.py')
    (tmp_path / 'compare_ranks.py').write_text(COMPARE_RANKS)
    launch = ['-m', 'torch.distributed.run', '--nproc-per-node', 2, '--master-port', free_port()]
    options = ['--launcher', 'pytorch', '--work-dir', tmp_path / 'two']
    environment = dict(os.environ, PYTHONPATH=str(tmp_path), OMP_NUM_THREADS='1')
    run(*launch, 'tools/train.py', tmp_path / 'two.py', *options, env=environment)
    record = torch.load(tmp_path / 'two/epoch_2.pth', weights_only=False)['mmpse_supernet'][
        'record'
    ]
    assert record['iteration'].tolist() == sorted(list(range(4)) * 4)  # 2 ranks, 2 drawn subnets


COMPARE_RANKS = """
import torch
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class CompareRanks(Hook):
    priority = 'LOWEST'

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        hook = next(h for h in runner.hooks if type(h).__name__ == 'SupernetHook')
        mine, other = dist.all_gather(torch.from_numpy(hook.subnets))
        assert torch.equal(mine[:2], other[:2]) and not torch.equal(mine[2:], other[2:])

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        for parameter in runner.model.parameters():
            mine, other = dist.all_gather(parameter.detach())
            assert torch.equal(mine, other)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]
