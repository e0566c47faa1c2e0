"""What a config's search space holds: look before a week of training.

python tools/analysis_tools/space_profile.py CONFIG [--input-shape 3 224 224] \\
    [--budget flops=300M] [--json FILE]

Prints the units with their candidate widths, the number of subnets, and FLOPs and parameters of the
smallest, the median and the largest subnet, head included; with --budget whether it can be met, and
how rare uniform draws inside it are. Exit status 1: no subnet meets the budget.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.registry import init_default_scope
from rich.console import Console
from rich.table import Table

import mmpse  # noqa: F401
from mmpse.models import costs_of, find_backbone, model_costs, with_subnet
from mmpse.registry import MODELS
from mmpse.space import Budget, BudgetError, PriorSampler, UniformSampler

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
    parser.add_argument('--json', type=Path, help='write the figures to this file')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    cfg = Config.fromfile(args.config)
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
        args.json.write_text(json.dumps(profile, indent=2) + '\n')


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
    for column in ('subnet', 'FLOPs (M)', 'params (M)'):
        table.add_column(column, justify='left' if column == 'subnet' else 'right')
    for name, resources in profile['resources'].items():
        table.add_row(name, *(f'{resources[key] / 1e6:,.2f}' for key in ('flops', 'params')))
    console.print(table)


if __name__ == '__main__':
    main()
