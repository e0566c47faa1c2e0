"""Measure the latency of a config's model with several subnets, side by side.

python tools/benchmarks/latency.py CONFIG --input-shape 3 224 224 \\
    --subnets full=None uniform=uniform.json searched=best_subnet.json \\
    --parts backbone model --runtimes torch onnxruntime [--batch 1] [--json FILE]

CONFIG may be that of a classifier, a single-stage detector or a segmentor; the whole model runs up
to its raw outputs. Everything runs interleaved, round by round; the table gives medians, and ratios
to the first subnet.
"""

import argparse
import copy
import statistics
from functools import partial
from pathlib import Path

import torch
from mmengine.device import get_device
from rich.console import Console
from rich.progress import track
from rich.table import Table

import mmpse  # noqa: F401
from mmpse.command import run_command
from mmpse.deploy import RUNTIMES, prepared
from mmpse.files import write_json
from mmpse.openmmlab.configs.files import build_model, load_config
from mmpse.openmmlab.models.latency import call_of
from mmpse.openmmlab.models.pruned import layout_of
from mmpse.resources.busy import busy_sentence
from mmpse.resources.timing import device_name, measure_latencies
from mmpse.slim import cut_
from mmpse.space import Subnet


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config of the full model')
    parser.add_argument(
        '--subnets', nargs='+', required=True, metavar='NAME=FILE', help='None is the fullnet'
    )
    parser.add_argument('--input-shape', nargs=3, type=int, required=True, metavar=('C', 'H', 'W'))
    parser.add_argument('--batch', type=int, default=1, help='images per forward')
    parser.add_argument('--parts', nargs='+', choices=['backbone', 'model'], default=['model'])
    parser.add_argument('--runtimes', nargs='+', choices=RUNTIMES, default=['torch'])
    parser.add_argument('--rounds', type=int, default=50, help='rounds, after 5 that warm up')
    parser.add_argument('--json', type=Path, help='write the figures to this file')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    device = get_device()
    full = build_model(load_config(args.config)).to(device).eval()
    x = torch.randn(args.batch, *args.input_shape, device=device)
    calls = {}
    for item in args.subnets:
        name, _, path = item.partition('=')
        model = copy.deepcopy(full)
        if path != 'None':
            subnet = Subnet.load(path)
            model = cut_(model, layout_of(subnet), subnet)
        for runtime in args.runtimes:
            for part in args.parts:
                if part == 'model':
                    calls[part, runtime, name] = call_of(model, x, runtime)
                else:
                    calls[part, runtime, name] = prepared(model.backbone, x, runtime)
    times = measure_latencies(
        calls, args.rounds, track=partial(track, description='rounds', transient=True)
    )

    first = args.subnets[0].partition('=')[0]
    rows = [
        dict(
            part=part,
            runtime=runtime,
            name=name,
            latency_ms=1e3 * statistics.median(values),
            busy=round(times.busy, 2),
            ratio=statistics.median(
                v / f for v, f in zip(values, times[part, runtime, first], strict=True)
            ),
        )
        for part in args.parts
        for runtime in args.runtimes
        for (p, r, name), values in times.items()
        if (p, r) == (part, runtime)
    ]
    shape = 'x'.join(map(str, [args.batch, *args.input_shape]))
    table = Table(title=f'{shape}, {device_name(device)}, {torch.get_num_threads()} threads')
    for column in ('part', 'runtime', 'subnet'):
        table.add_column(column)
    for column in ('median ms', 'ratio'):
        table.add_column(column, justify='right')
    for row in rows:
        latency, ratio = f'{row["latency_ms"]:.2f}', f'{row["ratio"]:.3f}'
        table.add_row(row['part'], row['runtime'], row['name'], latency, ratio)
    Console().print(table)
    if sentence := busy_sentence(times.busy):
        print(f'latency is not to be relied on: {sentence}')
    if args.json:
        write_json(args.json, rows)


if __name__ == '__main__':
    run_command(main)
