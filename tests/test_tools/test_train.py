"""tools/train.py: killed and resumed, in one process and in two."""

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
from functools import partial

import numpy as np
import pytest
import torch
from command_line import QUICK, run
from conftest import ROOT, small
from mmengine.config import Config
from tiny_tasks import write_task

from mmpse.openmmlab.checkpoints.supernet import supernet_state
from mmpse.search.archive import ArchiveError, read_archive


@pytest.fixture
def supernet_file(supernet_cfg, tmp_path):
    supernet_cfg.train_cfg.max_epochs = 6
    supernet_cfg.default_hooks.checkpoint.interval = 1
    supernet_cfg.default_hooks.logger.interval = 1
    supernet_cfg.log_level = 'INFO'
    path = tmp_path / 'supernet.py'
    supernet_cfg.dump(path)
    return path


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


def results(work_dir):
    subnets = [
        json.loads((work_dir / name).read_text()) for name in ('best_subnet.json', 'topk.json')
    ]
    for subnet in (subnets[0], *subnets[1]):
        subnet['source'].pop('config')
    return read_archive(work_dir / 'archive.db'), *subnets


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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize(
    ('options', 'remedy'),
    [
        (['--amp'], '--cfg-options optim_wrapper.type=mmpse.BFloat16OptimWrapper'),
        (
            ['--cfg-options', 'optim_wrapper.type=AmpOptimWrapper', 'optim_wrapper.dtype=float16'],
            "optim_wrapper.type='mmpse.BFloat16OptimWrapper' without dtype",
        ),
    ],
)
def test_float16_without_a_gpu(options, remedy):
    if torch.cuda.is_available():
        pytest.skip('there is a GPU')
    result = run('tools/train.py', QUICK / 'supernet_mobilenet-v2_digits.py', *options, expect=1)
    (line,) = result.stderr.splitlines()
    assert remedy in line


def test_ctrl_c_names_resume(supernet_file, tmp_path):
    command = [sys.executable, 'tools/train.py', str(supernet_file), '--work-dir', str(tmp_path)]
    command += ['--cfg-options', 'train_cfg.max_epochs=100']  # it is still running then
    options = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    # tests that run in the background of a shell ignore Ctrl-C, and so would what they start
    options['preexec_fn'] = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, cwd=ROOT, **options) as process:
        for line in process.stdout:
            if '[1][1/2]' in line:
                process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == 130
    assert said.splitlines()[-1] == 'interrupted; the same command with --resume goes on'
    assert 'Traceback' not in said


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
    record, again = (supernet_state(state)['record'] for state in (whole, resumed))
    assert all(torch.equal(record[key], again[key]) for key in record)


NOTE_JUDGED = """
import os
from mmpse.openmmlab.search.judge import Judge

judge = Judge.__call__


def noted(self, subnet):
    verdict = judge(self, subnet)
    with open(os.environ['JUDGED'], 'a') as file:
        print(list(subnet.values()), file=file)
    return verdict


Judge.__call__ = noted
"""


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
    assert len(times) == 42 and sum(times.values()) <= 42 + 10  # those that a kill interrupted


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
    for target in (15, 45):
        with subprocess.Popen([sys.executable, *command], cwd=ROOT) as job:
            while job.poll() is None:
                with contextlib.suppress(ArchiveError):  # not made yet
                    if len(read_archive(killed / 'stages.db')) >= target:
                        job.kill()
        assert job.returncode == -signal.SIGKILL
    run(*command)
    assert found(killed) == found(tmp_path / '1')


@pytest.mark.slow
def test_two_processes_search_as_one(search_file, tmp_path):
    for processes in (1, 2):
        place = tmp_path / str(processes)
        launch('tools/train.py', search_file, '--work-dir', place, processes=processes)
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
    # rank 1 judged a reference and a candidate, and was at its third subnet
    assert len(read_archive(tmp_path / 'search/archive.db')) == 4
    launch('tools/train.py', search_file, '--work-dir', tmp_path / 'search', '--resume')
    assert len(read_archive(tmp_path / 'search/archive.db')) == 42


FAILING = """
import os
from mmengine import dist
from mmpse.openmmlab.search.judge import Judge

judge, count = Judge.__call__, []


def failing(self, subnet):
    count.append(subnet)
    if os.environ['RANK'] == '1' and len(count) == 3:
        {failure}
    return judge(self, subnet)


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
    record = supernet_state(torch.load(tmp_path / 'two/epoch_2.pth', weights_only=False))['record']
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


SAVE_BY_RANK = """
import torch
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class SaveByRank(Hook):
    def after_train(self, runner):
        state = runner.model.module.state_dict()
        torch.save(state, f'{runner.work_dir}/{dist.get_rank()}.pth')
"""


@pytest.mark.slow
def test_a_whole_model_as_a_supernet_in_two_processes(digits, tmp_path):
    """Each has its own subnets, all losses are recorded in both, and the weights stay the same."""
    config, checkpoint = write_task('detection', digits, tmp_path)
    cfg = Config.fromfile(config)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.load_from = str(checkpoint)
    cfg.train_cfg.max_epochs, cfg.train_dataloader.batch_size = 2, 4
    cfg.train_dataloader.dataset.indices = 16
    cfg.optim_wrapper.optimizer.lr = 1e-5
    hook = dict(
        type='mmpse.SupernetHook',
        fullnet=False,
        tinynet=False,
        sampler=dict(type='mmpse.BudgetSampler', budget=dict(flops='60%')),
        teacher=dict(teacher=str(config), checkpoint=str(checkpoint), every=1),
    )
    cfg.custom_hooks = [hook, dict(type='SaveByRank', priority='LOW')]
    cfg.randomness = dict(seed=0)
    cfg.dump(tmp_path / 'supernet.py')
    file, env = importing(tmp_path / 'supernet.py', 'save_by_rank', SAVE_BY_RANK)
    launch('tools/train.py', file, '--work-dir', tmp_path / 'work', env=env)
    first, second = (torch.load(tmp_path / f'work/{rank}.pth') for rank in (0, 1))
    assert all(torch.equal(first[key], second[key]) for key in first)
    record = supernet_state(torch.load(tmp_path / 'work/epoch_2.pth', weights_only=False))['record']
    assert record['iteration'].tolist() == [k for k in range(4) for _ in range(8)]
    assert len({tuple(row) for row in record['widths'].tolist()}) > 24
