"""Evaluate a checkpoint with the config's test dataloader and evaluator.

python tools/test.py CONFIG CHECKPOINT [--out metrics.json] [--cfg-options key=value ...]
"""

import argparse
import os
import os.path as osp

from mmengine.config import Config, DictAction
from mmengine.dist import master_only
from mmengine.registry import RUNNERS
from mmengine.runner import CheckpointLoader, Runner

import mmpse  # noqa: F401  before a config is read: it makes `mmpse::` and `mmseg::` bases resolve
from mmpse.command import run_command
from mmpse.files import check_writable, plain, write_json
from mmpse.openmmlab.checkpoints.supernet import check_statistics
from mmpse.openmmlab.showing import count_images, show_predictions


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--work-dir', help='folder for logs')
    parser.add_argument('--out', help='write the metrics to this JSON file')
    parser.add_argument('--show-dir', help='draw predictions into this folder')
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


@master_only
def write_metrics(metrics: dict, path: str) -> None:
    write_json(path, plain(metrics))
    print(f'metrics -> {path}')


def main() -> None:
    args = parse_args()
    if not osp.isfile(args.checkpoint):
        raise FileNotFoundError(
            f'no checkpoint at {args.checkpoint}; train one with tools/train.py'
        )
    cfg = Config.fromfile(args.config)
    cfg.launcher = args.launcher
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = osp.join('work_dirs', osp.splitext(osp.basename(args.config))[0])
    cfg.load_from = args.checkpoint
    if args.out is not None:
        check_writable(args.out)
    if args.show_dir is not None:
        show_predictions(cfg, args.show_dir)
    runner = Runner.from_cfg(cfg) if 'runner_type' not in cfg else RUNNERS.build(cfg)
    checkpoint = CheckpointLoader.load_checkpoint(args.checkpoint, map_location='cpu')
    check_statistics(runner.model, checkpoint, args.checkpoint)
    metrics = runner.test()
    if args.show_dir is not None:
        print(f'{count_images(args.show_dir)} images -> {args.show_dir}')
    if args.out is not None:
        write_metrics(metrics, args.out)


if __name__ == '__main__':
    run_command(main)
