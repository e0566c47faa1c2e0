"""Cost of a supernet's training step of any config, against a plain step of its model.

python tools/benchmarks/model_step.py CONFIG [--n 4] [--rounds 3] [--json FILE]

Two supernets: of the backbone alone, where all other units keep their width, and of the model as a
whole. Their subnets share the batch of the config, in slices. The modes take turns, round by round,
each turn in a new process: a step that is not timed, then some that are, on one batch of the
config's own data. The table gives medians, and ratios to the plain step of the same round.
"""

import argparse
import itertools
import multiprocessing
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from mmengine.runner import Runner
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mmpse.command import run_command
from mmpse.files import write_json
from mmpse.openmmlab.configs.files import load_config
from mmpse.openmmlab.supernet.execution import now

TIMED_STEPS = 3  # of a turn
NO_HOOKS = dict.fromkeys(
    ('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint')
)
KEPT = {part: dict(ratios=[1.0]) for part in ('neck.*', '*head.*')}  # in a backbone's supernet
GRIDS = dict(plain=None, backbone=KEPT, whole={})


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help="config file, or 'mmdet::...' and the like")
    parser.add_argument('--n', type=int, default=4, help='parallel subnets')
    parser.add_argument('--rounds', type=int, default=3, help='turns of every mode')
    parser.add_argument('--json', type=Path, help='write the rows to this file')
    return parser.parse_args()


def turn(config: str, n: int, grids: dict[str, Any] | None, seed: int) -> float:
    """Seconds of a step; of a supernet unless ``grids`` is None."""
    cfg = load_config(config)
    if grids is not None:
        cfg.custom_hooks = [dict(type='mmpse.SupernetHook', n=n, execution='sliced', grids=grids)]
    cfg.train_dataloader.drop_last = True  # subnets share every batch
    for key in ('val', 'test'):
        for part in ('cfg', 'dataloader', 'evaluator'):
            cfg[f'{key}_{part}'] = None
    cfg.train_cfg = dict(by_epoch=False, max_iters=1_000_000)
    cfg.param_scheduler = None
    cfg.default_hooks, cfg.randomness, cfg.log_level = NO_HOOKS, dict(seed=seed), 'ERROR'
    cfg.experiment_name = f'{time.time_ns()}'
    with tempfile.TemporaryDirectory() as cfg.work_dir:
        runner = Runner.from_cfg(cfg)
        # what Runner.train does before it runs the loop
        loop = runner.train_loop
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        runner.optim_wrapper.initialize_count_status(runner.model, 0, loop.max_iters)
        runner.call_hook('before_train')
        runner.call_hook('before_train_epoch')
        runner.model.train()
        batch = next(iter(runner.train_dataloader))
        loop.run_iter(batch)
        start = now()
        for _ in range(TIMED_STEPS):
            loop.run_iter(batch)
        return (now() - start) / TIMED_STEPS


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each mode."""
    times: dict[str, list[float]] = {mode: [] for mode in GRIDS}
    # forked from a process that has imported all this, and run nothing yet
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['mmpse.openmmlab.supernet.hook'])
    turns = list(itertools.product(range(args.rounds), GRIDS))
    for seed, mode in track(turns, transient=True):
        with ProcessPoolExecutor(1, context) as process:
            job = process.submit(turn, args.config, args.n, GRIDS[mode], seed)
            times[mode].append(job.result())
    rows = []
    for mode, seconds in times.items():
        ratios = [one / plain for one, plain in zip(seconds, times['plain'], strict=True)]
        rows.append(
            dict(
                config=args.config,
                mode=mode,
                n=1 if mode == 'plain' else args.n,
                seconds=statistics.median(seconds),
                ratio=statistics.median(ratios),
                ratio_min=min(ratios),
                ratio_max=max(ratios),
            )
        )
    return rows


def main() -> None:
    args = parse_args()
    rows = measure(args)
    if args.json:
        write_json(args.json, rows)
    table = Table(title=f'{args.config}, {args.n} subnets, {args.rounds} rounds')
    for name in ('step', 'median s', 'ratio', 'min - max'):
        table.add_column(name)
    for row in rows:
        spread = f'{row["ratio_min"]:.2f} - {row["ratio_max"]:.2f}'
        table.add_row(row['mode'], f'{row["seconds"]:.3f}', f'{row["ratio"]:.2f}', spread)
    Console().print(table)


if __name__ == '__main__':
    run_command(main)
