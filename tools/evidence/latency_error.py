"""How well the fitted latency tells what subnets take that it was not fitted to.

python tools/evidence/latency_error.py CONFIG --name retinanet-r18_bccd --runtime onnxruntime

The fit is that of `mmpse prune --latency` and of searches. The other subnets, spread over the FLOPs
of the whole model, are measured in the same interleaved run. The record is a JSON file in
docs/results/latency; `--table` prints all.
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from frame import ROOT, circumstances
from rich.console import Console
from rich.table import Table

from mmpse.files import write_json
from mmpse.openmmlab.deploy.latency import measure_subnets
from mmpse.openmmlab.models.outputs import deployed_outputs
from mmpse.openmmlab.progress import progress
from mmpse.openmmlab.pruning.subject import examine
from mmpse.resources.latency import fit_latency, spread
from mmpse.space import SpreadSampler

RECORDS = ROOT / 'docs/results/latency'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', nargs='?')
    parser.add_argument('--name', help='of the record')
    parser.add_argument('--runtime', default='torch')
    parser.add_argument('--input-shape', nargs=3, type=int, help='by default that of the tests')
    parser.add_argument('--subnets', type=int, default=20, help='that the fit has not seen')
    parser.add_argument('--out', type=Path, default=RECORDS)
    parser.add_argument('--table', action='store_true', help='print what was measured')
    args = parser.parse_args()
    if not args.table and not (args.config and args.name):
        parser.error('CONFIG and --name are needed to measure')
    return args


def measure(args: argparse.Namespace) -> None:
    """Fit, measure other subnets, and compare."""
    wall, cpu = time.monotonic(), time.process_time()
    subject = examine(args.config, None, args.input_shape)
    space, shape = subject.space, subject.input_shape
    sampler = SpreadSampler(space, subject.costs['flops'])
    rows = sampler.sample(np.random.default_rng(1), args.subnets)
    others = [space.subnet(row) for row in rows]
    fitted = spread(space)
    both = [*map(space.subnet, fitted), *others]
    times = measure_subnets(
        subject.model, subject.layout, both, shape, args.runtime, progress('measuring')
    )
    seconds = np.array(list(times.least.values()))
    found = fit_latency(
        subject.model,
        subject.layout,
        space,
        torch.zeros(1, *shape),
        fitted,
        seconds[: len(fitted)],
        partial(deployed_outputs, subject.model),
    )
    measured = 1e6 * seconds[len(fitted) :]
    predicted = found.cost.exact(rows)
    errors = np.abs(predicted / measured - 1)
    full = subject.cost_of(space.fullnet)['flops']
    record = dict(
        runtime=args.runtime,
        input_shape=list(shape),
        fit_error=found.error,
        median_error=float(np.median(errors)),
        largest_error=float(errors.max()),
        busy=round(times.busy, 2),
        flops=[round(subject.cost_of(subnet)['flops'] / full, 3) for subnet in others],
        measured_us=measured.round(1).tolist(),
        predicted_us=predicted.round(1).tolist(),
        **circumstances(time.monotonic() - wall, time.process_time() - cpu),
    )
    write_json(args.out / f'{args.name}_{args.runtime}.json', record)


def table(folder: Path) -> None:
    shown = Table(title='fitted latency against measured subnets')
    for column in ('model', 'subnets', 'median error', 'largest', 'ms', 'busy'):
        shown.add_column(column)
    for path in sorted(folder.glob('*.json')):
        record = json.loads(path.read_text())
        ms = [us / 1000 for us in record['measured_us']]
        shown.add_row(
            path.stem,
            str(len(ms)),
            f'{record["median_error"]:.1%}',
            f'{record["largest_error"]:.1%}',
            f'{min(ms):.2f} to {max(ms):.2f}',
            str(record['busy']),
        )
    Console().print(shown)


def main() -> None:
    args = parse_args()
    if not args.table:
        measure(args)
    table(args.out)


if __name__ == '__main__':
    main()
