"""Ways to train a supernet, compared at equal wall-clock time.

python tools/benchmarks/equal_time.py CONFIG [CONFIG2 ...] --seconds 240 [960 ...] [--json FILE]

Every config trains from scratch for the same seconds (validation and checkpoints off); the learning
rate follows the clock, warming up over the first 5 % and falling linearly to 0, whatever number of
steps that makes. Then the fullnet and 5 subnets are sliced, recalibrated on training images and
judged on the config's test data. The 5 subnets are spread over the FLOPs and alike for all.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
from mmengine.config import Config, DictAction
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.console import Console
from rich.table import Table

import mmpse  # noqa: F401
from mmpse.engine.judge import Judge, calibration_batches
from mmpse.engine.search_loop import memory_format_of
from mmpse.models import backbone_costs, find_backbone
from mmpse.space import SpreadSampler


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('configs', nargs='+', metavar='CONFIG')
    parser.add_argument('--seconds', type=float, nargs='+', required=True, help='training times')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    parser.add_argument('--data-root', help='of training and test data; default: the config says')
    parser.add_argument('--train-images', type=int, help='take the first ones only')
    parser.add_argument('--test-images', type=int, help='take the first ones only')
    parser.add_argument('--calibration', type=int, default=8, help='batches of recalibration')
    parser.add_argument('--work-dir', default='work_dirs/equal_time')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={})
    parser.add_argument('--json', type=Path, help='write the rows to this file after every run')
    return parser.parse_args()


class Clock(Hook):
    """Ends a training after some seconds; the learning rate follows the clock."""

    def __init__(self, seconds: float, warmup: float = 0.05) -> None:
        self.seconds, self.warmup = seconds, warmup
        self.started: float | None = None

    def before_train_epoch(self, runner: Runner) -> None:
        if self.started is None:
            self.started = time.monotonic()
            groups = runner.optim_wrapper.optimizer.param_groups
            self.rates = [group['lr'] for group in groups]

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        passed = (time.monotonic() - self.started) / self.seconds
        factor = max(min(passed / self.warmup, (1 - passed) / (1 - self.warmup)), 1e-3)
        groups = runner.optim_wrapper.optimizer.param_groups
        for group, rate in zip(groups, self.rates, strict=True):
            group['lr'] = rate * factor

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None):
        if time.monotonic() - self.started >= self.seconds:
            runner.train_loop.stop_training = True


def load(path: str, seed: int, args: argparse.Namespace) -> Config:
    cfg = Config.fromfile(path)
    cfg.merge_from_dict(args.cfg_options)
    for loader, images in (
        (cfg.train_dataloader, args.train_images),
        (cfg.test_dataloader, args.test_images),
    ):
        if args.data_root is not None:
            loader.dataset.data_root = args.data_root
        if images is not None:
            loader.dataset.indices = images
    cfg.randomness = dict(seed=seed)
    cfg.work_dir = str(Path(args.work_dir) / Path(path).stem)
    cfg.param_scheduler = None
    # by iterations: an epoch can be longer than the training
    cfg.train_cfg = dict(by_epoch=False, max_iters=1_000_000_000)
    cfg.train_dataloader.sampler = dict(type='InfiniteSampler', shuffle=True)
    cfg.default_hooks.update(checkpoint=None, param_scheduler=None)
    cfg.log_processor = dict(by_epoch=False)
    cfg.experiment_name = f'{Path(path).stem}-{time.time_ns()}'
    return cfg


def train(cfg: Config, seconds: float) -> Runner:
    runner = Runner.from_cfg(cfg)
    runner.register_hook(Clock(seconds), priority='LOWEST')
    runner.train()
    return runner


def judge(runner: Runner, calibration: int) -> list[float]:
    """Accuracy of the fullnet and of 5 subnets, from the largest to the smallest, in per cent."""
    backbone = find_backbone(runner.model)
    space, flops = backbone.search_space, backbone_costs(backbone)['flops']
    levels = [(low / 5, low / 5 + 0.2) for low in range(5)]
    rng = np.random.default_rng(0)
    rows = [SpreadSampler(space, flops, *level, levels=1).sample(rng, 1)[0] for level in levels]
    subnets = [space.fullnet, *map(space.subnet, rows[::-1])]
    model = runner.cfg.model.to_dict()
    model.setdefault('data_preprocessor', runner.cfg.data_preprocessor.to_dict())
    of = Judge(
        model,
        runner.model.state_dict(),
        calibration_batches(runner.train_dataloader, calibration),
        Runner.build_dataloader(runner.cfg.test_dataloader),
        runner.build_evaluator(runner.cfg.test_evaluator),
        'accuracy/top1',
        memory_format_of(runner.model),
    )
    return [of(subnet).score for subnet in subnets]


def main() -> None:
    args = parse_args()
    rows = []
    for seconds in args.seconds:
        for seed in args.seeds:
            for path in args.configs:
                runner = train(load(path, seed, args), seconds)
                fullnet, *subnets = judge(runner, args.calibration)
                rows.append(
                    dict(
                        config=Path(path).stem,
                        seconds=seconds,
                        seed=seed,
                        steps=runner.iter,
                        fullnet=fullnet,
                        subnets=subnets,
                        mean=statistics.mean(subnets),
                    )
                )
                if args.json:
                    args.json.write_text(json.dumps(rows, indent=2) + '\n')
    table = Table(title='top-1 (%) at equal wall-clock; subnets from large to small')
    table.add_column('config')
    for name in ('seconds', 'seed', 'steps', 'fullnet', 'mean of 5', 'the 5 subnets'):
        table.add_column(name, justify='right')
    for row in rows:
        table.add_row(
            row['config'],
            f'{row["seconds"]:g}',
            str(row['seed']),
            str(row['steps']),
            f'{row["fullnet"]:.1f}',
            f'{row["mean"]:.1f}',
            ' '.join(f'{score:.1f}' for score in row['subnets']),
        )
    Console(width=120).print(table)


if __name__ == '__main__':
    main()
