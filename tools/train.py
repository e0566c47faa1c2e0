"""Train, search or retrain from a config: every job of mmpse starts here.

python tools/train.py CONFIG [--resume] [--cfg-options key=value ...]
"""

import argparse
import os
import os.path as osp

import torch
from mmengine import dist
from mmengine.config import Config, DictAction
from mmengine.device import get_device
from mmengine.optim import AmpOptimWrapper
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

import mmpse  # noqa: F401  before a config is read: it makes `mmpse::` and `mmseg::` bases resolve
from mmpse.command import run_command
from mmpse.errors import UserError
from mmpse.openmmlab.search.resume import resume_latest
from mmpse.openmmlab.types import is_type
from mmpse.registry import OPTIM_WRAPPERS


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='folder for logs and results')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='go on from this checkpoint, or (without a value) from the latest one in the work dir',
    )
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision')
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help='scale the learning rate by the batch size'
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='override settings of the config'
    )
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='launcher'
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def main() -> None:
    args = parse_args()
    cfg = Config.fromfile(args.config)
    cfg.launcher = args.launcher
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = osp.join('work_dirs', osp.splitext(osp.basename(args.config))[0])
    if args.amp:
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    amp = is_type(cfg.get('optim_wrapper'), AmpOptimWrapper, OPTIM_WRAPPERS)
    if get_device() == 'cpu' and amp:
        raise UserError(
            'AmpOptimWrapper (--amp) needs a GPU, and there is none; for bfloat16 on a CPU use '
            '--cfg-options optim_wrapper.type=mmpse.BFloat16OptimWrapper'
        )
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise UserError(
                f'--auto-scale-lr needs auto_scale_lr.base_batch_size in the config; {args.config} '
                'has none'
            )
        cfg.auto_scale_lr.enable = True
    if args.resume == 'auto':
        resume_latest(cfg)
    elif args.resume is not None:
        cfg.resume, cfg.load_from = True, args.resume
    if args.launcher != 'none' and not torch.cuda.is_available():
        # MMEngine's launcher takes a GPU for granted
        torch.distributed.init_process_group('gloo')
        wrapper = dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False)
        cfg.setdefault('model_wrapper_cfg', wrapper)
    runner = Runner.from_cfg(cfg) if 'runner_type' not in cfg else RUNNERS.build(cfg)
    runner.train()
    if dist.is_distributed():  # a process that ends with gloo's threads running aborts
        dist.barrier()
        torch.distributed.destroy_process_group()


if __name__ == '__main__':
    run_command(main, 'the same command with --resume goes on')
