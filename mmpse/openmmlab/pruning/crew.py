"""Pruning in the processes of MMEngine's launcher: the first one decides, all of them train."""

from __future__ import annotations

import datetime
import os
from typing import Any

import torch
from mmengine import dist
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner, find_latest_checkpoint
from torch import nn

from mmpse.openmmlab import compat
from mmpse.openmmlab.jobs import build_runner, leave

from .steps import PruneError

PATIENCE = datetime.timedelta(days=1)  # while the first process chooses, the others wait
CHECKED = 50  # iterations, after which weights are looked at


class Crew:
    """The processes of a job; a context in the first one, which the others :meth:`follow`.

    Inside the context MMEngine sees a job of one process, but in :meth:`train`.

    Args:
        launcher: MMEngine's launcher; ``'none'``: there is one process.
    """

    def __init__(self, launcher: str) -> None:
        self.launcher = launcher
        self._started = launcher != 'none' and not dist.is_distributed()
        if self._started:
            if torch.cuda.is_available():
                dist.init_dist(launcher, timeout=PATIENCE)
            else:  # MMEngine's launcher takes a GPU for granted
                torch.distributed.init_process_group('gloo', timeout=PATIENCE)
        self.processes = dist.get_world_size()

    @property
    def leads(self) -> bool:
        """Whether this is the first process."""
        return dist.is_main_process()

    def __enter__(self) -> Crew:
        self._alone = compat.alone()
        self._alone.__enter__()
        return self

    def __exit__(self, *_: Any) -> None:
        self._alone.__exit__(None, None, None)
        self._tell(None)
        self._end()

    def follow(self) -> None:
        """Train whatever the first process trains, until it is done."""
        while (job := self._tell(None)) is not None:
            train(*job, self.launcher)
        self._end()

    def _end(self) -> None:
        if self._started:
            leave()

    def train(self, config: str | os.PathLike, work_dir: str | os.PathLike) -> str:
        """Train by a config in all processes; the last checkpoint."""
        self._alone.__exit__(None, None, None)
        try:
            self._tell((str(config), str(work_dir)))
            return train(config, work_dir, self.launcher)
        finally:
            self._alone = compat.alone()
            self._alone.__enter__()

    @staticmethod
    def _tell(job: tuple[str, str] | None) -> tuple[str, str] | None:
        """What the first process tells the others."""
        message = [job]
        dist.broadcast_object_list(message)
        return message[0]


def train(config: str | os.PathLike, work_dir: str | os.PathLike, launcher: str = 'none') -> str:
    """Train by a config, or go on with a training that was interrupted; the last checkpoint.

    Raises:
        PruneError: If the training diverges.
    """
    cfg = Config.fromfile(config)
    cfg.work_dir, cfg.launcher = str(work_dir), launcher
    # by a name that an earlier run of this process had, MMEngine finds what writes into its folder
    cfg.pop('experiment_name', None)
    if cfg.get('visualizer'):
        cfg.visualizer.pop('name', None)
    start = cfg.get('load_from')
    if (latest := _latest(cfg.work_dir)) is not None:
        cfg.resume, cfg.load_from = True, latest
    runner = build_runner(cfg)
    runner.register_hook(FiniteHook(start))
    try:
        runner.train()
    except Exception:  # heads stumble over what is not finite, each in its own way
        check_finite(runner.model, start)
        raise
    check_finite(runner.model, start)
    return _latest(cfg.work_dir)


def _latest(work_dir: str) -> str | None:
    """The last whole checkpoint in a folder, which may have been moved since."""
    found = find_latest_checkpoint(work_dir) if os.path.isdir(work_dir) else None
    path = os.path.join(work_dir, os.path.basename(found or ''))
    return path if os.path.isfile(path) else None


class FiniteHook(Hook):
    """Stops a training that would go on for nothing: see :func:`check_finite`.

    A loss that is not finite is no reason, since a gradient scaler leaves such a step out.
    """

    def __init__(self, start: str | None) -> None:
        self.start = start

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None
    ) -> None:
        if self.every_n_train_iters(runner, CHECKED):
            check_finite(runner.model, self.start)


def check_finite(model: nn.Module, start: str | None) -> None:
    """Raise a PruneError if not all weights of a model that began with ``start`` are finite."""
    bad = [name for name, x in model.state_dict().items() if not torch.isfinite(x).all()]
    if bad:
        raise PruneError(
            f'the training diverged: {len(bad)} weights are not finite ({bad[0]}, ...); it began '
            f'with {start}; make sure that the checkpoint is one of a trained model, or give the '
            'config a lower optim_wrapper.optimizer.lr or a clip_grad, and start in another folder'
        )
