"""Count the draws that a candidate inside a budget takes, by sampler (the paper's Fig. 4a).

python tools/benchmarks/sampling.py [--checkpoint SUPERNET.pth] [--json FILE]

MobileNetV2 1.5x, 224 px, window 95 to 100 % of each budget. 'loss' and 'prior' go by the losses in
the supernet's checkpoint; without one the losses are made up, which the rows say. Times include
the building of the sampler.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mmpse.command import run_command
from mmpse.errors import UserError
from mmpse.files import write_json
from mmpse.openmmlab.checkpoints.supernet import supernet_state
from mmpse.openmmlab.configs.building import build_model
from mmpse.openmmlab.configs.files import load_config
from mmpse.openmmlab.supernet.building import find_supernet, supernet_of
from mmpse.openmmlab.supernet.record import recorded_losses, relative_losses
from mmpse.space import (
    SAMPLERS,
    Budget,
    BudgetError,
    Cost,
    PriorSampler,
    SearchSpace,
    SpreadSampler,
    expected_loss,
)

COUNT = 1000


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--widen-factor', type=float, default=1.5)
    parser.add_argument('--size', type=int, default=224, help='side of an image in pixels')
    parser.add_argument(
        '--budgets', nargs='+', default=['500M', '300M', '210M', '150M', '105M', '50M']
    )
    parser.add_argument('--window', type=float, default=0.05)
    parser.add_argument('--checkpoint', help='of a supernet of this width')
    parser.add_argument(
        '--max-trials', type=int, default=1_000_000, help='draws at which a sampler gives up'
    )
    parser.add_argument('--json', type=Path, help='write the rows to this file')
    return parser.parse_args()


def made_up_losses(space: SearchSpace, flops: Cost) -> tuple[np.ndarray, np.ndarray]:
    """Subnets of a training and losses that fall with every width, by an amount of its own."""
    rng = np.random.default_rng(0)
    widths = SpreadSampler(space, flops).sample(rng, 10_000)
    full = space.array([space.fullnet])[0]
    weights = rng.exponential(size=len(space)) / len(space)
    return widths, (1 - widths / full) @ weights + 0.1 * rng.standard_normal(len(widths))


def main() -> None:
    args = parse_args()
    cfg = load_config('mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py')
    wide = dict(backbone=dict(widen_factor=args.widen_factor))
    wide['head'] = dict(in_channels=int(1280 * max(1, args.widen_factor)))
    cfg.merge_from_dict(dict(model=wide))
    model, shape = build_model(cfg), (3, args.size, args.size)
    if args.checkpoint is None:
        supernet, costs = find_supernet(model, cfg, {}, shape)
        record = made_up_losses(supernet.space, costs['flops'])
    else:
        checkpoint = torch.load(args.checkpoint, map_location='cpu', weights_only=False)
        if recorded_losses(checkpoint) is None:
            raise UserError(
                f'{args.checkpoint} holds no losses of subnets; give a checkpoint of a classifier '
                'that was trained with SupernetHook'
            )
        supernet, costs = supernet_of(model, checkpoint, cfg, shape)
        record = relative_losses(supernet_state(checkpoint)['record'])
    space = supernet.space
    energy = expected_loss(space, *record)

    rows = []
    cases = [(kind, budget) for kind in SAMPLERS for budget in args.budgets]
    for kind, amount in track(cases, description='samplers', transient=True):
        rng = np.random.default_rng(0)
        budget = Budget(space, costs, dict(flops=amount), args.window)
        start = time.perf_counter()
        sampler = PriorSampler(space, budget, energy, kind, args.max_trials)
        if kind in ('prior', 'cost'):
            sampler.sample(rng, COUNT)
        else:  # one by one, so that what was found counts when the trials are used up
            try:
                while sampler.accepted < COUNT and sampler.trials < args.max_trials:
                    sampler.sample(rng, 1)
            except BudgetError:
                pass
        seconds = time.perf_counter() - start
        found = sampler.accepted
        rows.append(
            dict(
                network=f'MobileNetV2 {args.widen_factor}x',
                sampler=kind,
                budget=amount,
                trials_per_valid=sampler.trials / found if found else None,
                seconds_per_1000=1000 * seconds / found if found else None,
                trials=sampler.trials,
                valid=found,
                losses='checkpoint' if args.checkpoint else 'made up',
            )
        )

    title = f'{rows[0]["network"]}, {args.size} px, trials per valid sample (seconds per 1,000)'
    table = Table(title=title)
    for name in ('FLOPs', *SAMPLERS):
        table.add_column(name, justify='right')
    for amount in args.budgets:
        table.add_row(amount, *(show(row) for row in rows if row['budget'] == amount))
    Console().print(table)
    if args.json:
        write_json(args.json, rows)


def show(row: dict) -> str:
    if row['valid'] == 0:
        return f'> {row["trials"]:,}'
    return f'{row["trials_per_valid"]:,.2f} ({row["seconds_per_1000"]:,.2f})'


if __name__ == '__main__':
    run_command(main)
