"""What a config's search space holds: look before a week of training.

python tools/analysis_tools/space_profile.py CONFIG [--input-shape 3 224 224] \\
    [--budget flops=300M] [--latency] [--json FILE]

Prints the units with their candidate widths, the number of subnets, and FLOPs and parameters of the
smallest, the median and the largest subnet, head included; with --budget whether it can be met, and
how rare uniform draws inside it are; with --latency what one image takes on this device, side by
side. Exit status 1: no subnet meets the budget.
"""

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from mmengine.device import get_device
from mmengine.registry import init_default_scope
from rich.console import Console
from rich.progress import track
from rich.table import Table

import mmpse  # noqa: F401
from mmpse.command import run_command
from mmpse.files import write_json
from mmpse.models import (
    costs_of,
    device_name,
    find_backbone,
    measure_latencies,
    model_costs,
    prepared,
    with_subnet,
)
from mmpse.registry import MODELS
from mmpse.resources.busy import busy_sentence
from mmpse.space import Budget, BudgetError, PriorSampler, Subnet, UniformSampler
from mmpse.transfer.config import load_supernet

DRAWS = 100_000  # uniform draws: of them the median, and the share inside the budget


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config of a model with a slimmable backbone')
    parser.add_argument(
        '--input-shape', nargs=3, type=int, default=(3, 224, 224), metavar=('C', 'H', 'W')
    )
    parser.add_argument(
        '--budget', nargs='+', metavar='RESOURCE=AMOUNT', help='flops=300M, params=50%%, or both'
    )
    parser.add_argument('--latency', action='store_true', help='measure latency as well')
    parser.add_argument('--json', type=Path, help='write the figures to this file')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    cfg = load_supernet(args.config)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    model = cfg.model.to_dict()
    space = find_backbone(MODELS.build(with_subnet(model, None))).search_space
    costs = model_costs(model, tuple(args.input_shape))

    draws = UniformSampler(space, costs['flops']).sample(np.random.default_rng(0), DRAWS)
    median = space.subnet(draws[np.argsort(costs['flops'](draws))[DRAWS // 2]])
    subnets = dict(smallest=space.tinynet, median=median, largest=space.fullnet)
    profile = dict(
        backbone=space.backbone,
        units={unit.name: unit.candidates for unit in space.units},
        subnets=space.size,
        input_shape=args.input_shape,
        resources={name: costs_of(space, costs, subnet) for name, subnet in subnets.items()},
    )
    if args.latency:
        for name, milliseconds in latencies(model, subnets, args.input_shape).items():
            profile['resources'][name]['latency_ms'] = milliseconds
    show(profile)
    if args.budget:
        limit = dict(item.split('=', 1) for item in args.budget)
        try:
            budget = Budget(space, costs, limit)
            prior = PriorSampler(space, budget, kind='cost')
            found = prior.sample(np.random.default_rng(0), 100)
        except BudgetError as error:
            sys.exit(f'the budget cannot be met: {error}')
        share = float(budget.contains(draws).mean())
        rarity = f'1 in {1 / share:,.0f}' if share else f'none of {DRAWS:,}'
        print(f'the budget can be met: {budget}; of uniform draws, {rarity} lies inside')
        profile['budget'] = dict(
            limit=limit, share_of_uniform_draws=share, found=len(np.unique(found, axis=0))
        )
    if args.json:
        write_json(args.json, profile)


def latencies(
    model: dict, subnets: Mapping[str, Subnet], input_shape: Sequence[int]
) -> dict[str, float]:
    """Median milliseconds of one image through the model with each of the subnets."""
    device = get_device()
    x = torch.randn(1, *input_shape, device=device)
    calls = {}
    for name, subnet in subnets.items():
        static = MODELS.build(with_subnet(model, subnet)).to(device)
        static.eval()
        calls[name] = prepared(static, x)
    times = measure_latencies(calls, track=partial(track, description='rounds', transient=True))
    if sentence := busy_sentence(times.busy):
        print(f'latency is not to be relied on: {sentence}')
    return {name: 1e3 * statistics.median(seconds) for name, seconds in times.items()}


def show(profile: dict) -> None:
    console = Console()
    table = Table(title=f'{profile["backbone"]["type"]}: width units')
    for column in ('unit', 'full width', 'candidates'):
        table.add_column(column, justify='right' if column == 'full width' else 'left')
    for name, candidates in profile['units'].items():
        frozen = ['not pruned'] if len(candidates) == 1 else map(str, candidates)
        table.add_row(name, str(candidates[-1]), ' '.join(frozen))
    console.print(table)
    shape = 'x'.join(map(str, profile['input_shape']))
    table = Table(title=f'{len(profile["units"])} units, {profile["subnets"]:.3g} subnets, {shape}')
    columns = {
        'flops': ('FLOPs (M)', 1e-6),
        'params': ('params (M)', 1e-6),
        'latency_ms': (f'ms, {device_name(get_device())}, {torch.get_num_threads()} threads', 1),
    }
    table.add_column('subnet')
    shown = [key for key in columns if key in profile['resources']['largest']]
    for key in shown:
        table.add_column(columns[key][0], justify='right')
    for name, resources in profile['resources'].items():
        table.add_row(name, *(f'{resources[key] * columns[key][1]:,.2f}' for key in shown))
    console.print(table)


if __name__ == '__main__':
    run_command(main)
