"""Train, search or retrain from a config: every job of mmpse starts here.

python tools/train.py CONFIG [--resume] [--cfg-options key=value ...]
"""

import argparse

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.optim import AmpOptimWrapper

import mmpse  # noqa: F401  before a config is read: it makes `mmpse::` and `mmseg::` bases resolve
from mmpse.command import run_command
from mmpse.errors import UserError
from mmpse.openmmlab.errors import listed
from mmpse.openmmlab.jobs import build_runner, job_config, job_parser, leave
from mmpse.openmmlab.pruning.recipe import AMP_ONLY
from mmpse.openmmlab.search.base import SearchLoop
from mmpse.openmmlab.search.resume import resume_latest
from mmpse.openmmlab.types import in_scope, is_type
from mmpse.registry import LOOPS, OPTIM_WRAPPERS


def parse_args() -> argparse.Namespace:
    parser = job_parser(__doc__)
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
    parser.add_argument('--search', action='store_true', help=argparse.SUPPRESS)  # `mmpse search`
    return parser.parse_args()


def check_search(cfg: Config) -> None:
    """
    Raises:
        UserError: If a config trains instead.
    """
    with in_scope(cfg):
        if not is_type(cfg.get('train_cfg'), SearchLoop, LOOPS):
            raise UserError(
                f'{cfg.filename} is no config of a search: its train_cfg is no '
                'mmpse.PredictorSearchLoop or another search of docs/search.md; `mmpse train` '
                'trains by it, and `mmpse prune` makes its trained model smaller'
            )


def main() -> None:
    args = parse_args()
    cfg = job_config(args)
    if args.search:
        check_search(cfg)
    if args.amp and cfg.get('optim_wrapper') is not None:
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    amp = is_type(cfg.get('optim_wrapper'), AmpOptimWrapper, OPTIM_WRAPPERS)
    if get_device() == 'cpu' and amp:
        remedy = '--cfg-options optim_wrapper.type=mmpse.BFloat16OptimWrapper'
        if given := [key for key in AMP_ONLY if key in cfg.optim_wrapper and not args.amp]:
            remedy = f"optim_wrapper.type='mmpse.BFloat16OptimWrapper' without {listed(given)}"
        raise UserError(
            'AmpOptimWrapper (--amp) needs a GPU, and there is none; for bfloat16 on a CPU use '
            f'{remedy}'
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
    build_runner(cfg).train()
    leave()


if __name__ == '__main__':
    run_command(main, 'the same command with --resume goes on')
