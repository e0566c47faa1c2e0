"""Evaluate a checkpoint with the config's test dataloader and evaluator.

python tools/test.py CONFIG CHECKPOINT [--out metrics.json] [--tta] [--cfg-options key=value ...]
"""

import argparse
import os.path as osp

from mmengine.dist import is_main_process
from mmengine.runner import CheckpointLoader

import mmpse  # noqa: F401  before a config is read: it makes `mmpse::` and `mmseg::` bases resolve
from mmpse.command import run_command
from mmpse.files import check_writable, plain, write_json
from mmpse.openmmlab.checkpoints.loading import check_shapes
from mmpse.openmmlab.checkpoints.supernet import check_statistics
from mmpse.openmmlab.configs.augmented import augment_test, check_merging
from mmpse.openmmlab.jobs import build_runner, job_config, job_parser, leave, model_of
from mmpse.openmmlab.showing import count_images, show_predictions


def parse_args() -> argparse.Namespace:
    parser = job_parser(__doc__)
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--out', help='write the metrics to this JSON file')
    parser.add_argument('--show-dir', help='draw predictions into this folder')
    parser.add_argument(
        '--tta',
        action='store_true',
        help="test-time augmentation: by the config's tta_model and tta_pipeline, else of every "
        'image and its mirror image',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    if not osp.isfile(args.checkpoint):
        raise FileNotFoundError(
            f'no checkpoint at {args.checkpoint}; train one with tools/train.py'
        )
    cfg = job_config(args)
    cfg.load_from = args.checkpoint
    cfg.resume = False  # a test needs the weights alone, whatever the training was left at
    if args.out is not None:
        check_writable(args.out)
    if args.show_dir is not None:
        show_predictions(cfg, args.show_dir)
    if args.tta:
        augment_test(cfg)
    runner = build_runner(cfg)
    if args.tta:
        check_merging(runner.model)
    checkpoint = CheckpointLoader.load_checkpoint(args.checkpoint, map_location='cpu')
    check_statistics(runner.model, checkpoint, args.checkpoint)
    check_shapes(model_of(runner), checkpoint, args.checkpoint)
    metrics = runner.test()
    if args.show_dir is not None:
        print(f'{count_images(args.show_dir)} images -> {args.show_dir}')
    if args.out is not None and is_main_process():
        write_json(args.out, plain(metrics))
        print(f'metrics -> {args.out}')
    leave()


if __name__ == '__main__':
    run_command(main)
