"""Measure the latency of a config's model with several subnets, side by side.

python tools/benchmarks/latency.py CONFIG --input-shape 3 224 224 \\
    --subnets full=None searched=best_subnet.json [--batch 1] [--json FILE]

All subnets run interleaved, round by round; the table gives medians, and ratios to the first one.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import init_default_scope
from rich.console import Console
from rich.progress import track
from rich.table import Table

import mmpse  # noqa: F401
from mmpse.models import with_subnet
from mmpse.registry import MODELS
from mmpse.space import Subnet


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config of a model with a slimmable backbone')
    parser.add_argument(
        '--subnets', nargs='+', required=True, metavar='NAME=FILE', help='None is the fullnet'
    )
    parser.add_argument('--input-shape', nargs=3, type=int, required=True, metavar=('C', 'H', 'W'))
    parser.add_argument('--batch', type=int, default=1, help='images per forward')
    parser.add_argument('--rounds', type=int, default=50, help='rounds, after 5 that warm up')
    parser.add_argument('--json', type=Path, help='write the figures to this file')
    return parser.parse_args()


@torch.no_grad()
def main() -> None:
    args = parse_args()
    cfg = Config.fromfile(args.config)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    device = get_device()
    models = {}
    for item in args.subnets:
        name, _, path = item.partition('=')
        subnet = None if path == 'None' else Subnet.load(path)
        models[name] = MODELS.build(with_subnet(cfg.model.to_dict(), subnet)).to(device)
        models[name].eval()
    x = torch.randn(args.batch, *args.input_shape, device=device)
    times: dict[str, list[float]] = {name: [] for name in models}
    for k in track(range(args.rounds + 5), description='rounds', transient=True):
        for name, model in models.items():
            start = time.perf_counter()
            model(x, mode='tensor')
            if device == 'cuda':
                torch.cuda.synchronize()
            if k >= 5:
                times[name].append(time.perf_counter() - start)

    first = next(iter(times.values()))
    rows = [
        dict(
            name=name,
            latency_ms=1e3 * statistics.median(values),
            ratio=statistics.median(v / f for v, f in zip(values, first, strict=True)),
        )
        for name, values in times.items()
    ]
    shape = 'x'.join(map(str, [args.batch, *args.input_shape]))
    table = Table(title=f'{shape}, {device}, {torch.get_num_threads()} threads')
    for column in ('subnet', 'median ms', 'ratio'):
        table.add_column(column, justify='left' if column == 'subnet' else 'right')
    for row in rows:
        table.add_row(row['name'], f'{row["latency_ms"]:.2f}', f'{row["ratio"]:.3f}')
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + '\n')


if __name__ == '__main__':
    main()
