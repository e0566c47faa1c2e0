"""What the experiments share: units of work with their records, and training by the clock.

A unit of work (one training, one judged supernet) is one JSON record, written when it is done. A
command that was killed goes on with the units that have no record yet, and a training with its last
checkpoint.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import fnmatch
import json
import math
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import mmpse
from mmpse.files import write_json
from mmpse.openmmlab import compat
from mmpse.openmmlab.search.resume import resume_latest
from mmpse.resources.timing import device_name

ROOT = Path(__file__).resolve().parents[2]
INTERVAL = 500  # steps between the checkpoints of a training by the clock
Advance = Callable[[float], None]  # is told the share of a unit that is done, in [0, 1]


class Unit(NamedTuple):
    """Work that is done as a whole or not at all."""

    name: str  # of its record
    run: Callable[[Path, Advance], dict[str, Any]]  # gets a folder to work in, returns the figures


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale:
    """The data of an experiment, and how it is trained on."""

    images: int | None  # of the training set, the first ones; None: all
    splits: int  # parts of them, of which one is held out
    bfloat16: bool


def common_parser(description: str, scales: Iterable[str], out: str) -> argparse.ArgumentParser:
    """The options of every experiment; ``out`` is the folder of its records."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--scale', choices=list(scales), default='small')
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument(
        '--only', nargs='+', default=['*'], metavar='PATTERN', help='units of work to run'
    )
    parser.add_argument('--threads', type=int, default=1, help='of the CPU')
    parser.add_argument('--out', type=Path, default=ROOT / 'docs/results' / out)
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/evidence'))
    return parser


def parser(description: str, scales: Iterable[str], out: str) -> argparse.ArgumentParser:
    """The same, and those of an experiment with no other data than CIFAR-10."""
    parser = common_parser(description, scales, out)
    parser.add_argument('--data-root', help='folder of CIFAR-10; default: the config says')
    parser.add_argument('--network', default='resnet20_b64', help='as the configs name it')
    return parser


def chosen(units: Sequence[Unit], patterns: Sequence[str]) -> list[Unit]:
    """The units of ``--only``."""
    found = [u for u in units if any(fnmatch.fnmatch(u.name, pattern) for pattern in patterns)]
    if not found:
        raise SystemExit(
            f'--only {" ".join(patterns)} matches none of the units of work: '
            f'{", ".join(unit.name for unit in units[:3])}, ...'
        )
    return found


def run_units(units: Iterable[Unit], command: str, folder: Path, work_dir: Path) -> None:
    """Run the units that have no record in ``folder`` yet.

    Args:
        units: What is to be done.
        command: What does one of them anew, with ``--only`` its name.
        folder: Of the records.
        work_dir: Place for checkpoints, which are removed as soon as the record is there.
    """
    units = list(units)
    todo = [unit for unit in units if not (folder / f'{unit.name}.json').exists()]
    columns = (
        TextColumn('{task.description}'),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, speed_estimate_period=7200) as progress:
        task = progress.add_task('', total=len(units), completed=len(units) - len(todo))
        for done, unit in enumerate(todo, len(units) - len(todo)):
            progress.update(task, description=unit.name)
            progress.console.print(f'{datetime.datetime.now():%H:%M:%S} {unit.name}')
            place = work_dir / unit.name
            wall, cpu = time.monotonic(), time.process_time()
            figures = unit.run(
                place, lambda share, done=done: progress.update(task, completed=done + share)
            )
            seconds = time.monotonic() - wall, time.process_time() - cpu
            again = dict(command=f'{command} --only {unit.name}')
            record = dict(figures, **again, **circumstances(*seconds))
            write_json(folder / f'{unit.name}.json', record)
            shutil.rmtree(place, ignore_errors=True)
            progress.update(task, completed=done + 1)


def circumstances(seconds: float, cpu_seconds: float) -> dict[str, Any]:
    """What a record says of how it came about."""
    device = get_device()
    return dict(
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds'),
        seconds=round(seconds, 1),
        cpu_seconds=round(cpu_seconds, 1),
        machine=dict(
            device=device_name(device),
            threads=torch.get_num_threads(),
            python=platform.python_version(),
            torch=torch.__version__,
        ),
        code=code_version(),
    )


def code_version() -> str:
    """The commit, or the release where there is no repository."""
    command = ['git', '-C', str(ROOT), 'describe', '--always', '--dirty', '--abbrev=12']
    result = subprocess.run(command, capture_output=True, text=True)
    return result.stdout.strip() or mmpse.__version__


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding='utf-8'))


def now() -> float:
    """Seconds by the clock that makes trainings comparable.

    On a CPU the processor time of this process, which other jobs of the machine do not add to; with
    a GPU the wall-clock.
    """
    return time.monotonic() if torch.cuda.is_available() else time.process_time()


class Clock(Hook):
    """Learning rate by the share of a training that is done: warm-up over 5 %, then a cosine to 0.

    Args:
        advance: Is told the share.
        seconds: By :func:`now`, after which the training ends; ``None``: the loop ends it.

    Attributes:
        passed: Seconds of training so far, those before a resume included.
    """

    WARMUP = 0.05

    def __init__(self, advance: Advance, seconds: float | None = None) -> None:
        self.advance, self.seconds, self.passed = advance, seconds, 0.0

    def before_run(self, runner: Runner) -> None:
        if runner.optim_wrapper is not None and runner.iter == 0:  # before a resume sets others
            self.rates = [group['lr'] for group in runner.optim_wrapper.optimizer.param_groups]

    def before_train(self, runner: Runner) -> None:
        self.started = now() - self.passed
        self._stop_when_over(runner)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        share = self.share(runner)
        cosine = (1 + math.cos(math.pi * (share - self.WARMUP) / (1 - self.WARMUP))) / 2
        factor = max(min(share / self.WARMUP, cosine), 1e-3)
        for group, rate in zip(runner.optim_wrapper.optimizer.param_groups, self.rates):
            group['lr'] = rate * factor

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None):
        self.passed = now() - self.started
        self.advance(self.share(runner))
        self._stop_when_over(runner)

    def share(self, runner: Runner) -> float:
        if self.seconds is None:
            return runner.iter / runner.max_iters
        return min(self.passed / self.seconds, 1.0)

    def _stop_when_over(self, runner: Runner) -> None:
        if self.seconds is not None and self.passed >= self.seconds:
            runner.train_loop.stop_training = True

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        checkpoint['clock'] = self.passed

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if compat.is_resuming(runner):  # else the time of the training in `load_from`
            self.passed = checkpoint['clock']


def load_config(name: str, scale: Scale, data_root: str | None) -> Config:
    """A config of ``configs/cifar10`` on the data of a scale."""
    cfg = Config.fromfile(ROOT / f'configs/cifar10/{name}_cifar10.py')
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader')
        if loader is None:
            continue
        dataset = loader.dataset
        if split != 'test':
            dataset.num_splits = scale.splits
            dataset = dataset.dataset
            if scale.images is not None:
                dataset.indices = scale.images
        if data_root is not None:
            dataset.data_root = data_root
    if scale.bfloat16:
        cfg.optim_wrapper.type = 'mmpse.BFloat16OptimWrapper'
    return cfg


def set_up(cfg: Config, seed: int, work_dir: Path) -> None:
    """What every run needs: its seed, its place, few words, no scheduler of the config."""
    cfg.randomness = dict(seed=seed)
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = f'{work_dir.name}-{time.time_ns()}'
    cfg.log_level = 'WARNING'
    cfg.param_scheduler = None


def train(
    cfg: Config,
    seed: int,
    work_dir: Path,
    advance: Advance,
    *,
    epochs: int | None = None,
    seconds: float | None = None,
) -> tuple[Runner, dict[str, Any]]:
    """Train for some epochs or some seconds, from where a killed training stopped.

    Returns:
        The runner and the figures of the training.
    """
    set_up(cfg, seed, work_dir)
    by_epoch = epochs is not None
    if by_epoch:
        cfg.train_cfg = dict(by_epoch=True, max_epochs=epochs, val_interval=epochs + 1)
    else:
        cfg.train_cfg = dict(by_epoch=False, max_iters=1_000_000_000)
        cfg.train_dataloader.sampler = dict(type='InfiniteSampler', shuffle=True)
    cfg.log_processor = dict(by_epoch=by_epoch)
    # of 1 the old one is removed before the new one is written: a kill there loses both
    checkpoint = dict(by_epoch=by_epoch, interval=1 if by_epoch else INTERVAL, max_keep_ckpts=2)
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', save_last=by_epoch, **checkpoint)
    cfg.default_hooks.param_scheduler = None
    resume_latest(cfg)
    clock = Clock(advance, seconds)
    runner = Runner.from_cfg(cfg)
    runner.register_hook(clock, priority='LOWEST')
    runner.train()
    return runner, dict(seed=seed, steps=runner.iter, train_seconds=round(clock.passed, 1))
