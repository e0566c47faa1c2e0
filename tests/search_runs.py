"""Runs of small searches, shared by their tests."""

import copy
import itertools
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmpse.search.archive import read_archive

SHARED = ('budget', 'input_shape', 'metric', 'calibration')
NUMBERS = itertools.count()


class Stop(Exception):
    pass


class Killer(Hook):
    """Ends a run as abruptly as an in-process test can."""

    def __init__(self, iteration):
        self.iteration = iteration

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.iteration:
            raise Stop


def fresh_name():
    """Of an experiment: in one second, MMEngine gives runs of one name one logger and one hub."""
    return f'run-{next(NUMBERS)}'


def search(cfg, **options):
    cfg = copy.deepcopy(cfg)
    cfg.merge_from_dict(options)
    cfg.experiment_name = fresh_name()
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def log_of(runner):
    return (Path(runner.log_dir) / f'{runner.timestamp}.log').read_text()


def other_search(cfg, name, **settings):
    kept = {key: cfg.train_cfg[key] for key in SHARED if key in cfg.train_cfg}
    cfg.train_cfg = dict(type=f'mmpse.{name}', **kept, **settings)
    return search(cfg).train_loop, read_archive(f'{cfg.work_dir}/archive.db')
