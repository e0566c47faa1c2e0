"""The tools as a user starts them."""

import collections
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import torchvision
from conftest import ROOT, small
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmpse.engine import Archive, ArchiveError, Judged, LossRecord, read_archive
from mmpse.models import SlimmableMobileNetV2, measure, model_costs
from mmpse.registry import MODELS
from mmpse.space import SAMPLERS, Subnet

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
    # the largest one within the limit, not the nearest one
    uniform = space.array([space.uniform(r / 1000) for r in range(1001)])
    flops = model_costs(model, (3, 32, 32))['flops'](uniform)
    assert subnet.resources['flops'] == flops[flops <= half].max() < half


def test_make_subnet_out_of_reach(tmp_path):
    result = run(
        *('tools/make_subnet.py', QUICK / 'search_mobilenet-v2_digits.py'),
        *('--flops', '900M', '--input-shape', 3, 32, 32, '-o', tmp_path / 'x.json'),
        expect=1,
    )
    assert 'this space reaches from' in result.stderr and not (tmp_path / 'x.json').exists()
    assert 'Traceback' not in result.stderr


def test_subnet_of_a_stock_segmentor(tmp_path):
    config, uniform = 'mmseg::fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py', tmp_path / 'u.json'
    shape = ('--input-shape', 3, 64, 64)
    run('tools/make_subnet.py', config, '--params', '60%', *shape, '-o', uniform)
    said = run('tools/transfer.py', config, '--subnet', uniform, '-o', tmp_path / 'new.py').stdout
    assert 'FLOPs of the backbone: ' in said and 'parameters of the backbone: ' in said
    result = run('tools/transfer.py', config, '--subnet', 'no.json', '-o', 'x.py', expect=1)
    assert 'SubnetError' in result.stderr and 'Traceback' not in result.stderr


def test_public_checkpoint_becomes_a_sorted_supernet(tmp_path):
    public, out = tmp_path / 'mobilenet_v2.pth', tmp_path / 'supernet.pth'
    torch.save(torchvision.models.mobilenet_v2().state_dict(), public)
    command = ('tools/model_converters/public_to_supernet.py',)
    config = QUICK / 'search_mobilenet-v2_digits.py'
    run(*command, config, public, out, '--sort', 'l1', '--backbone-only')
    cfg = Config.fromfile(config)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(cfg.model)
    model.load_state_dict(torch.load(out, weights_only=True)['state_dict'])
    norms = model.backbone.conv2.conv.weight.flatten(1).norm(1, dim=1)
    assert torch.all(norms[1:] <= norms[:-1] * (1 + 1e-6))


@pytest.mark.slow
def test_resuming_a_training_that_starts_from_another_one(supernet_file, tmp_path):
    """A fine-tuning names the supernet in `load_from`: --resume goes on with its own checkpoint."""
    first, second = tmp_path / 'first', tmp_path / 'second'
    command = ('tools/train.py', supernet_file, '--resume', '--work-dir')

    def options(epochs, *more):
        return ('--cfg-options', f'train_cfg.max_epochs={epochs}', *more)

    run(*command, first, *options(1))
    load_from = f'load_from={first / "epoch_1.pth"}'
    output = run(*command, second, *options(1, load_from)).stdout
    assert 'resumed epoch' not in output and (second / 'epoch_1.pth').exists()
    output = run(*command, second, *options(2, load_from)).stdout
    assert 'resumed epoch: 1' in output and (second / 'epoch_2.pth').exists()


def test_float16_without_a_gpu():
    if torch.cuda.is_available():
        pytest.skip('there is a GPU')
    result = run('tools/train.py', QUICK / 'supernet_mobilenet-v2_digits.py', '--amp', expect=1)
    assert 'optim_wrapper.type=mmpse.BFloat16OptimWrapper' in result.stderr


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
        *('--size', 64, '--batch', 8, '--n', 2, '--dtypes', 'float32'),
        *('--layouts', 'channels_last', '--json', out),
    )
    rows = {(row['mode'], row['n']): row for row in json.loads(out.read_text())}
    assert rows.keys() == {
        *(('plain', 1), ('masked', 2), ('sliced', 2)),
        *(('stage-wise masked', 4), ('stage-wise sliced', 4)),
        *(('sandwich', 4), ('spos', 1)),
    }
    for (mode, n), row in rows.items():
        assert mode != 'plain' or (row['ratio'] == 1 and row['memory_ratio'] == 1)
        images = 8 * (n if mode == 'sandwich' else 2 if 'stage-wise' in mode else 1)
        assert row['subnet_images_per_s'] == pytest.approx(images / row['seconds'])
        assert 0.3 < row['memory_ratio'] < 1.2

    out, half = tmp_path / 'latency.json', tmp_path / 'half.json'
    SlimmableMobileNetV2().search_space.uniform(0.5).save(half)
    run(
        *('tools/benchmarks/latency.py', QUICK / 'retinanet_mobilenet-v2_digits.py', '--rounds', 2),
        *('--subnets', 'full=None', f'half={half}', '--input-shape', 3, 64, 64, '--json', out),
        *('--parts', 'backbone', 'model', '--runtimes', 'eager', 'onnxruntime'),
    )
    rows = {(row['part'], row['runtime'], row['name']): row for row in json.loads(out.read_text())}
    assert len(rows) == 8
    for (*_, name), row in rows.items():
        assert row['latency_ms'] > 0 and (name != 'full' or row['ratio'] == 1)

    out = tmp_path / 'sampling.json'
    run(
        *('tools/benchmarks/sampling.py', '--widen-factor', 0.5, '--size', 64, '--json', out),
        *('--budgets', '50%', '95%', '--max-trials', 3000),
    )
    rows = {(row['sampler'], row['budget']): row for row in json.loads(out.read_text())}
    assert rows.keys() == {(s, b) for s in SAMPLERS for b in ('50%', '95%')}
    assert rows['uniform', '95%']['trials_per_valid'] is None
    for sampler in ('prior', 'cost'):
        for budget in ('50%', '95%'):
            assert rows[sampler, budget]['trials_per_valid'] < 2
            assert rows[sampler, budget]['seconds_per_1000'] < 5  # about 0.1 on an idle core


def test_latency_table_is_built_once_and_checked(tmp_path):
    out = tmp_path / 'table.json'
    command = ['tools/latency_table.py', QUICK / 'search_mobilenet-v2_digits.py', '-o', out]
    command += ['--input-shape', 3, 32, 32, '--points', 2, '--rounds', 1, '--check', 2]
    assert 'relative error over 2 subnets: median' in run(*command).stdout
    layers = json.loads(out.read_text())['layers']
    run(*command)
    assert json.loads(out.read_text())['layers'] == layers


@pytest.fixture
def archive(tmp_path):
    """An archive of two searches, and a CSV of its subnets trained on their own."""
    space = SlimmableMobileNetV2(widen_factor=0.35).search_space
    units = [[unit.name, unit.max_width] for unit in space.units]
    archive = Archive(tmp_path / 'work/archive.db', dict(units=units, metric='top1'))
    lines = ['subnet,accuracy']
    for k, ratio in enumerate((0.3, 0.5, 0.7, 0.8, 0.9)):
        subnet = space.subnet(space.uniform(ratio).values(), resources=dict(flops=100 + k))
        number, _ = archive.begin(dict(budget=k // 3))
        cost = dict(flops=10**6 * (k + 1), params=10**6)
        score = [50.0, 60.0, 80.0, 70.0, 90.0][k]
        archive.add([Judged(number, 0, 'prior', tuple(subnet.values()), score, None, cost)])
        subnet.save(tmp_path / f'{k}.json')
        lines.append(f'{k}.json,{[71, 72, 75, 74, 73][k]}')
    dropped = Judged(2, 0, 'prior', tuple(space.tinynet.values()), None, None, cost, 99.0)
    archive.add([dropped])  # for its score on a part: it is not the best
    (tmp_path / 'subnets.csv').write_text('\n'.join(lines) + '\n')
    return archive.path


def test_plot_search_draws_and_compares(archive, tmp_path):
    result = run('tools/analysis_tools/plot_search.py', archive, '--out-dir', tmp_path / 'out')
    files = {path.name for path in (tmp_path / 'out').iterdir()}
    assert files == {'search_progress.png', 'width_profile.png'}
    assert re.search('work#1 .*3 .*0 .*80.0000', result.stdout)
    assert re.search('work#2 .*3 .*1 .*90.0000', result.stdout)
    result = run('tools/analysis_tools/plot_search.py', tmp_path / 'subnets.csv', expect=1)
    assert 'give the archive.db that a search wrote' in result.stderr


def test_plot_losses_draws_the_record_of_a_checkpoint(tmp_path, scope):
    cfg = Config.fromfile(QUICK / 'supernet_mobilenet-v2_digits.py')
    space = MODELS.build(cfg.model.backbone).search_space
    record = LossRecord(size=10)
    record.extend(0, space.array([space.fullnet, space.tinynet]), [1.0, 2.0])
    state = dict(meta=dict(cfg=cfg.pretty_text), mmpse_supernet=dict(record=record.state_dict()))
    torch.save(state, tmp_path / 'epoch_1.pth')
    result = run('tools/analysis_tools/plot_losses.py', tmp_path / 'epoch_1.pth')
    assert '2 losses drawn' in result.stdout and (tmp_path / 'training_losses.png').stat().st_size
    torch.save(dict(state_dict={}), tmp_path / 'other.pth')
    result = run('tools/analysis_tools/plot_losses.py', tmp_path / 'other.pth', expect=1)
    assert 'other.pth holds no losses of subnets' in result.stderr


def test_ranking_agreement_of_scores_and_of_flops(archive, tmp_path):
    tool, out = 'tools/analysis_tools/ranking_agreement.py', tmp_path / 'agreement.json'
    run(tool, tmp_path / 'subnets.csv', '--archive', archive, '--json', out)
    figures = json.loads(out.read_text())
    # of ten pairs the scores order 8 as the accuracies do, FLOPs 7
    assert figures['supernet']['kendall_tau'] == pytest.approx(0.6)
    assert figures['FLOPs']['kendall_tau'] == pytest.approx(0.4)
    assert figures['supernet']['regret_top1'] == figures['FLOPs']['regret_top1'] == 2
    result = run(tool, tmp_path / 'subnets.csv', expect=1)
    assert "row 1: no score, got {'subnet': '0.json'" in result.stderr


def test_benchmark_of_judging_adds_up(tmp_path):
    out = tmp_path / 'judge.json'
    run(
        *('tools/benchmarks/judge.py', '--networks', 'MobileNetV2', '--size', 32, '--images', 8),
        *('--batch', 4, '--calibration', 1, '--rounds', 1, '--json', out),
    )
    (row,) = json.loads(out.read_text())
    shares = [row[f'{part}_share'] for part in ('slicing', 'recalibration', 'evaluation')]
    assert sum(shares) == pytest.approx(1) and min(shares) > 0
    assert row['ratio'] == pytest.approx(row['candidate_s'] / row['plain_s'])
    assert 0.3 < row['flops_share'] < 0.7
    least = row['slicing_share'] + row['recalibration_share']
    assert least < row['dropped_share']  # and the evaluation of a quarter


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


@pytest.fixture
def search_file(supernet_file, digits, tmp_path):
    """A search of 40 subnets, in generations that two processes cannot share evenly."""
    run('tools/train.py', supernet_file, '--work-dir', tmp_path / 'supernet')
    cfg = small(QUICK / 'search_mobilenet-v2_digits.py', digits, tmp_path)
    cfg.load_from = str(tmp_path / 'supernet/epoch_6.pth')
    cfg.log_level = 'INFO'
    cfg.train_cfg.update(population=5, generations=8, parents=3, mutants=3, calibration=2)
    path = tmp_path / 'search.py'
    cfg.dump(path)
    return path


def results(work_dir):
    subnets = [
        json.loads((work_dir / name).read_text()) for name in ('best_subnet.json', 'topk.json')
    ]
    for subnet in (subnets[0], *subnets[1]):
        subnet['source'].pop('config')
    return read_archive(work_dir / 'archive.db', dropped=True), *subnets


@pytest.mark.slow
def test_search_survives_kill_9(search_file, tmp_path):
    """Killed ten times at random moments: nothing is lost, doubled, or judged twice."""
    whole, killed = tmp_path / 'whole', tmp_path / 'killed'
    run('tools/train.py', search_file, '--work-dir', whole)
    noting, environment = importing(search_file, 'note_judged', NOTE_JUDGED)
    environment['JUDGED'] = str(tmp_path / 'judged.txt')  # by the processes, beside the archive
    command = ['tools/train.py', str(noting), '--work-dir', str(killed), '--resume']
    rng, known = np.random.default_rng(0), []
    for target in sorted(rng.integers(0, 39, size=10)):
        with subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, env=environment, stderr=subprocess.DEVNULL
        ) as job:
            while job.poll() is None and len(known) <= target:
                if (killed / 'archive.db').exists():
                    with contextlib.suppress(ArchiveError):  # made, but still empty
                        now = read_archive(killed / 'archive.db')
                        assert now[: len(known)] == known
                        known = now
            time.sleep(rng.uniform(0, 0.2))  # in the middle of judging, or of writing
            job.kill()
        assert job.returncode == -signal.SIGKILL
    run(*command, env=environment)
    assert results(killed) == results(whole)
    times = collections.Counter((tmp_path / 'judged.txt').read_text().splitlines())
    assert len(times) == 40 and sum(times.values()) <= 40 + 10  # those that a kill interrupted


NOTE_JUDGED = """
import os
from mmpse.engine import Judge

judge = Judge.__call__


def noted(self, subnet, least):
    verdict = judge(self, subnet, least)
    with open(os.environ['JUDGED'], 'a') as file:
        print(list(subnet.values()), file=file)
    return verdict


Judge.__call__ = noted
"""


def importing(config_file, name, source):
    """The config with one more module that it imports, and an environment that finds it."""
    folder = config_file.parent
    (folder / f'{name}.py').write_text(source)
    cfg = Config.fromfile(config_file)
    cfg.custom_imports.imports.append(name)
    cfg.dump(folder / f'with_{name}.py')
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get('PYTHONPATH')]))
    return folder / f'with_{name}.py', dict(os.environ, PYTHONPATH=path)


def launch(*command, processes=2, env=os.environ, **kwargs):
    launcher = ['torch.distributed.run', '--nproc-per-node', processes, '--master-port']
    command = ['-m', *launcher, free_port(), *command, '--launcher', 'pytorch']
    return run(*command, env=dict(env, OMP_NUM_THREADS='1'), **kwargs)


@pytest.mark.slow
def test_two_processes_search_as_one(search_file, tmp_path):
    race = ('--cfg-options', 'train_cfg.racing.share=0.5', 'train_cfg.topk=3')
    for processes in (1, 2):
        place = tmp_path / str(processes)
        launch('tools/train.py', search_file, '--work-dir', place, *race, processes=processes)
    assert all(row.part is not None for row in results(tmp_path / '1')[0])
    assert results(tmp_path / '2') == results(tmp_path / '1')


@pytest.mark.slow
@pytest.mark.parametrize(
    ('failure', 'message'),
    [
        ("raise MemoryError('rank 1 is full')", 'rank 1 failed: MemoryError: rank 1 is full'),
        ('os.kill(os.getpid(), 9)', 'Signal 9 .* received by PID'),
    ],
)
def test_failing_process_ends_the_search(search_file, tmp_path, failure, message):
    file, environment = importing(search_file, 'failing', FAILING.format(failure=failure))
    command = ('tools/train.py', file, '--work-dir', tmp_path / 'search')
    result = launch(*command, env=environment, expect=1, timeout=300)
    assert re.search(message, result.stdout + result.stderr)
    # rank 1 judged 2 of the first generation's 5, and was at its third: all 5 are kept
    assert len(read_archive(tmp_path / 'search/archive.db')) == 5
    launch('tools/train.py', search_file, '--work-dir', tmp_path / 'search', '--resume')
    assert len(read_archive(tmp_path / 'search/archive.db')) == 40


FAILING = """
import os
from mmengine import dist
from mmpse.engine import Judge

judge, count = Judge.__call__, []


def failing(self, subnet, least):
    count.append(subnet)
    if os.environ['RANK'] == '1' and len(count) == 3:
        {failure}
    return judge(self, subnet, least)


Judge.__call__ = failing
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ('hook', 'accumulative_counts'),
    [
        (dict(execution='masked'), 1),
        (dict(execution='sliced', distillation=dict(weight=0.5)), 1),
        (dict(execution='auto', serial=True, distillation=dict()), 4),
    ],
    ids=['masked', 'sliced-distilled', 'sandwich'],
)
def test_two_processes_train_one_supernet(supernet_file, tmp_path, hook, accumulative_counts):
    """Different subnets on every rank, one set of weights, the losses of both in the record."""
    cfg = Config.fromfile(supernet_file)
    cfg.train_cfg.max_epochs = 2
    cfg.train_dataloader.batch_size = 16
    cfg.optim_wrapper.accumulative_counts = accumulative_counts
    cfg.custom_hooks[-1].update(hook)
    cfg.custom_hooks.append(dict(type='CompareRanks'))
    cfg.dump(tmp_path / 'two.py')
    file, environment = importing(tmp_path / 'two.py', 'compare_ranks', COMPARE_RANKS)
    launch('tools/train.py', file, '--work-dir', tmp_path / 'two', env=environment)
    record = torch.load(tmp_path / 'two/epoch_2.pth', weights_only=False)['mmpse_supernet'][
        'record'
    ]
    assert record['iteration'].tolist() == sorted(list(range(4)) * 4)  # 2 ranks, 2 drawn subnets


@pytest.mark.slow
def test_data_that_ends_early_on_a_rank_is_refused(supernet_file, tmp_path):
    cfg = Config.fromfile(supernet_file)
    cfg.train_dataloader.batch_size = 16
    cfg.train_dataloader.dataset.indices = 33  # 17 images on rank 0, 16 on rank 1
    cfg.train_dataloader.sampler.round_up = False
    cfg.train_dataloader.drop_last = False
    cfg.dump(tmp_path / 'two.py')
    result = launch(
        *('tools/train.py', tmp_path / 'two.py', '--work-dir', tmp_path / 'two'),
        expect=1,
        timeout=120,
    )
    assert 'the processes would run [2, 1] batches' in result.stderr


@pytest.mark.slow
def test_killed_rank_ends_the_training(supernet_file, tmp_path):
    cfg = Config.fromfile(supernet_file)
    cfg.train_dataloader.batch_size = 16
    cfg.custom_hooks.append(dict(type='KilledRank'))
    cfg.dump(tmp_path / 'two.py')
    file, environment = importing(tmp_path / 'two.py', 'killed_rank', KILLED_RANK)
    result = launch(
        *('tools/train.py', file, '--work-dir', tmp_path / 'two'),
        expect=1,
        env=environment,
        timeout=120,
    )
    assert 'Signal 9 (SIGKILL)' in result.stderr


KILLED_RANK = """
import os
import signal

from mmengine import dist
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class KilledRank(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 3 and dist.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
"""


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


@pytest.mark.slow
def test_stage_wise_search_shared_and_killed(search_file, digits, tmp_path):
    """Two processes, and one that is killed while it judges stages, find what one finds."""
    cfg = small(QUICK / 'swp-search_mobilenet-v2_digits.py', digits, tmp_path)
    cfg.load_from = Config.fromfile(search_file).load_from
    cfg.train_cfg.update(candidates=30, joined=5, calibration=2)
    file = tmp_path / 'stagewise.py'
    cfg.dump(file)

    def found(place):
        return read_archive(place / 'stages.db'), *results(place)

    for processes in (1, 2):
        place = tmp_path / str(processes)
        launch('tools/train.py', file, '--work-dir', place, processes=processes)
    assert found(tmp_path / '2') == found(tmp_path / '1')

    killed = tmp_path / 'killed'
    command = ['tools/train.py', str(file), '--work-dir', str(killed), '--resume']
    for target in (100, 300):
        with subprocess.Popen([sys.executable, *command], cwd=ROOT) as job:
            while job.poll() is None:
                with contextlib.suppress(ArchiveError):  # not made yet
                    if len(read_archive(killed / 'stages.db')) >= target:
                        job.kill()
        assert job.returncode == -signal.SIGKILL
    run(*command)
    assert found(killed) == found(tmp_path / '1')
