"""Build the latency table of a config's backbone on this device, and check it.

python tools/latency_table.py CONFIG --input-shape 3 224 224 -o table.json [--check 20]

Run it on an otherwise idle machine. If it is interrupted, the same command goes on. A search takes
the table with --cfg-options train_cfg.latency_table=table.json train_cfg.budget._delete_=True
train_cfg.budget.latency=5ms.
"""

import argparse

import numpy as np
from mmengine.registry import init_default_scope
from rich.console import Console
from rich.table import Table

import mmpse  # noqa: F401
from mmpse.command import run_command
from mmpse.models import RUNTIMES, LatencyTable
from mmpse.transfer.config import load_supernet

# compiling hundreds of layers would take hours
WITHOUT_COMPILER = [runtime for runtime in RUNTIMES if runtime != 'compiled']


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config of a model with a slimmable backbone')
    parser.add_argument('--input-shape', nargs=3, type=int, required=True, metavar=('C', 'H', 'W'))
    parser.add_argument('-o', '--out', required=True, help='the table, JSON')
    parser.add_argument('--points', type=int, default=6, help="widths of a unit's grid")
    parser.add_argument('--rounds', type=int, default=20, help='rounds, after 5 that warm up')
    parser.add_argument('--batch', type=int, default=1, help='images per forward')
    parser.add_argument('--runtime', choices=WITHOUT_COMPILER, default='eager')
    parser.add_argument('--check', type=int, metavar='N', help='measure N held-out subnets')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    cfg = load_supernet(args.config)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    table = LatencyTable(cfg.model.to_dict(), args.input_shape, args.out)
    table.build(args.points, args.rounds, args.batch, args.runtime)
    ends = table.cost()(table.space.array([table.space.tinynet, table.space.fullnet])) / 1000
    whole = table.content['whole']
    print(
        f'{args.out}: {table.identity["device"]}, {table.identity["threads"]} threads; '
        f'{ends[0]:.2f} ms (tinynet) to {ends[1]:.2f} ms (fullnet); latency = '
        f'{whole["constant"] / 1000:.2f} ms + {whole["scale"]:.3f} x layers'
    )
    if args.check:
        report(table.check(args.check))


def report(check: dict) -> None:
    rows = Table(title='held-out subnets, ms')
    for name in ('measured', 'predicted', 'error'):
        rows.add_column(name, justify='right')
    for measured, predicted in sorted(zip(check['measured'], check['predicted'])):
        error = f'{predicted / measured - 1:+.1%}'
        rows.add_row(f'{measured / 1000:.2f}', f'{predicted / 1000:.2f}', error)
    Console().print(rows)
    print(
        f'relative error over {len(rows.rows)} subnets: median {check["median_error"]:.1%}, '
        f'worst {check["worst_error"]:.1%}; correlation '
        f'{np.corrcoef(check["measured"], check["predicted"])[0, 1]:.4f}; tinynet and fullnet take '
        f'{check["drift"]:+.1%} longer than at the build'
    )
    if abs(check['drift']) > 0.05:
        print('the machine is not as it was then: build the table anew on an idle one')


if __name__ == '__main__':
    run_command(main, 'the same command goes on')
