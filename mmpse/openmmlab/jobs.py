"""What jobs of MMEngine's runner share: options of the tools, configs, processes."""

import argparse
import os
import os.path as osp

import torch
from mmengine import dist
from mmengine.config import Config, DictAction
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch import nn

from mmpse.openmmlab.errors import ConfigError, listed, name_of

# what a config has all of, or none
LOOPS = (
    ('train_dataloader', 'train_cfg', 'optim_wrapper'),
    ('val_dataloader', 'val_cfg', 'val_evaluator'),
    ('test_dataloader', 'test_cfg', 'test_evaluator'),
)


def job_parser(description: str) -> argparse.ArgumentParser:
    """A parser of the options that OpenMMLab's tools have."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='folder for logs and results')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='override settings of the config'
    )
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='launcher'
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    return parser


def job_config(args: argparse.Namespace) -> Config:
    """The config of a job with these options in it.

    Raises:
        ConfigError: If it lacks something, see :func:`check_complete`.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = Config.fromfile(args.config)
    cfg.launcher = args.launcher
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = osp.join('work_dirs', osp.splitext(osp.basename(args.config))[0])
    check_complete(cfg)
    return cfg


def check_complete(cfg: Config) -> None:
    """
    Raises:
        ConfigError: If a config has no model, or only a part of what a loop of MMEngine takes.
    """
    if not cfg.get('model'):
        raise ConfigError(f'{name_of(cfg)} has no model; give a whole config')
    if 'runner_type' in cfg:  # which may take something else
        return
    for keys in LOOPS:
        lacking = [key for key in keys if cfg.get(key) is None]
        if lacking and len(lacking) < len(keys):
            there = [key for key in keys if key not in lacking]
            raise ConfigError(
                f'{name_of(cfg)} has {listed(there)}, but no {listed(lacking)}: MMEngine takes all '
                f'of them or none; add what is missing, or set {" and ".join(there)} to None'
            )


def build_runner(cfg: Config) -> Runner:
    """The runner of a config, whose launcher may start its processes without a GPU, too."""
    if cfg.launcher != 'none' and not torch.cuda.is_available():
        # MMEngine's launcher takes a GPU for granted
        if not dist.is_distributed():
            torch.distributed.init_process_group('gloo')
        wrapper = dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False)
        cfg.setdefault('model_wrapper_cfg', wrapper)
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)


def leave() -> None:
    """End a distributed job: a process that ends with gloo's threads running aborts."""
    if dist.is_distributed():
        dist.barrier()
        torch.distributed.destroy_process_group()


def model_of(runner: Runner) -> nn.Module:
    """The runner's model itself, of one that several processes or views of an image share too."""
    model = runner.model
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model
