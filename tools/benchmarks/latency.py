"""Measure the latency of a config's model with several subnets, side by side.

python tools/benchmarks/latency.py CONFIG --subnets full=None searched=best_subnet.json \\
    [--input-shape 3 224 224] [--batch 1] [--runtimes torch onnxruntime] [--json FILE]

The whole model runs up to its raw outputs. Everything runs interleaved, round by round; the table
gives medians, and ratios to the first subnet.
"""

import argparse
import copy
import statistics
from functools import partial
from pathlib import Path

import torch
from mmengine.device import get_device
from rich.progress import track

from mmpse.command import run_command
from mmpse.deploy import RUNTIMES, prepared
from mmpse.files import write_json
from mmpse.openmmlab.configs.building import build_model
from mmpse.openmmlab.configs.files import load_config
from mmpse.openmmlab.configs.images import default_input_shape
from mmpse.openmmlab.models.pruned import layout_of
from mmpse.resources.busy import busy_sentence
from mmpse.resources.timing import device_name, measure_latencies
from mmpse.slim import cut_
from mmpse.space import Subnet
from mmpse.visualization import text_table


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help="config file, or 'mmdet::...' and the like")
    parser.add_argument(
        '--subnets', nargs='+', required=True, metavar='NAME=FILE', help='None is the fullnet'
    )
    parser.add_argument(
        '--input-shape', nargs=3, type=int, metavar=('C', 'H', 'W'), help='default: of the tests'
    )
    parser.add_argument('--batch', type=int, default=1, help='images per forward')
    parser.add_argument('--runtimes', nargs='+', choices=RUNTIMES, default=['torch'])
    parser.add_argument('--rounds', type=int, default=50, help='rounds, after 5 that warm up')
    parser.add_argument('--json', type=Path, help='write the figures to this file')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    cfg = load_config(args.config)
    full = build_model(cfg).eval().to(get_device())
    shape = args.batch, *(args.input_shape or default_input_shape(cfg, full))
    images = torch.randn(shape, device=get_device())
    calls = {}
    for item in args.subnets:
        name, _, path = item.partition('=')
        model = copy.deepcopy(full)
        if path != 'None':
            subnet = Subnet.load(path)
            cut_(model, layout_of(subnet), subnet)
        calls.update({(r, name): prepared(model, images, r) for r in args.runtimes})
    follow = partial(track, description='rounds', transient=True)
    times = measure_latencies(calls, args.rounds, track=follow)

    first = args.subnets[0].partition('=')[0]
    rows = []
    for (runtime, name), values in times.items():
        ratios = [v / f for v, f in zip(values, times[runtime, first], strict=True)]
        rows.append(
            dict(
                runtime=runtime,
                name=name,
                latency_ms=1e3 * statistics.median(values),
                busy=round(times.busy, 2),
                ratio=statistics.median(ratios),
            )
        )
    rows.sort(key=lambda row: args.runtimes.index(row['runtime']))
    print(
        text_table(
            ['runtime', 'subnet', 'median ms', 'ratio'],
            [
                [row['runtime'], row['name'], f'{row["latency_ms"]:.2f}', f'{row["ratio"]:.3f}']
                for row in rows
            ],
            f'{"x".join(map(str, shape))}, {device_name(get_device())}, '
            f'{torch.get_num_threads()} threads',
            left=2,
        )
    )
    if sentence := busy_sentence(times.busy):
        print(f'latency is not to be relied on: {sentence}')
    if args.json:
        write_json(args.json, rows)


if __name__ == '__main__':
    run_command(main)
