"""What widths in multiples of 8, 16 or 32 bring where the model runs.

for n in 1 8 16 32; do
    mmpse prune CONFIG CHECKPOINT --flops 50% --divisor $n --no-finetune -o work_dirs/divisor/$n
done
python tools/evidence/divisors.py CONFIG work_dirs/divisor --name retinanet-r18_bccd

The subnets are timed beside the full model in one interleaved run for every size of image, with
random weights. Times are those of the processor, which other jobs of the machine do not add to. The
record is a JSON file in docs/results/divisors; `--table` prints all. Files that are there are not
exported again.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from frame import ROOT, circumstances
from rich.console import Console
from rich.table import Table
from torch import nn

from mmpse.deploy import export_onnx, loaded, prepared, quantize
from mmpse.files import write_json
from mmpse.openmmlab.configs.building import build_model
from mmpse.openmmlab.configs.files import load_config
from mmpse.openmmlab.models.pruned import layout_of
from mmpse.resources.timing import keep_freed_memory
from mmpse.slim import cut_
from mmpse.space import Subnet

RECORDS = ROOT / 'docs/results/divisors'
RUNTIMES = 'torch', 'onnxruntime', 'openvino', 'int8'
WARMUP, ROUNDS = 2, 9


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', nargs='?')
    parser.add_argument('folder', nargs='?', type=Path, help='of the folders of mmpse prune')
    parser.add_argument('--name', help='of the record')
    parser.add_argument('--sizes', nargs='+', default=['192x256', '800x1344'], help='of images')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/divisors'))
    parser.add_argument('--table', action='store_true', help='print what was measured')
    args = parser.parse_args()
    if not args.table and not (args.folder and args.name):
        parser.error('CONFIG, FOLDER and --name are needed to measure')
    return args


def measure(args: argparse.Namespace) -> None:
    """Export all, and time them beside each other."""
    wall, cpu = time.monotonic(), time.process_time()
    sizes = [(3, *map(int, size.split('x'))) for size in args.sizes]
    full = build_model(load_config(args.config)).eval()
    models, flops = {'full': full}, {}
    for path in sorted(args.folder.glob('*/subnet.json'), key=lambda path: int(path.parent.name)):
        subnet, name = Subnet.load(path), path.parent.name
        models[name] = cut_(copy.deepcopy(full), layout_of(subnet), subnet)
        flops[name] = subnet.resources['flops']
    files = {name: exported(model, args, name, sizes[0]) for name, model in models.items()}
    rows = []
    for size in sizes:
        image = torch.randn(1, *size)
        calls = {}
        for name, model in models.items():
            calls[name, 'torch'] = prepared(model, image)
            for runtime, run in files[name].items():
                calls[name, runtime] = lambda run=run, image=image: run(image.numpy())
        times = processor_times(calls)
        ms = {key: 1e3 * statistics.median(values) for key, values in times.items()}
        ratios = {
            key: statistics.median(np.divide(values, times['full', key[1]]))
            for key, values in times.items()
        }
        for name in models:
            row = dict(size=list(size[1:]), divisor=name)
            row['ms'] = {runtime: round(ms[name, runtime], 3) for runtime in RUNTIMES}
            row['ratio'] = {runtime: round(ratios[name, runtime], 3) for runtime in RUNTIMES}
            rows.append(row)
    about = circumstances(time.monotonic() - wall, time.process_time() - cpu)
    write_json(RECORDS / f'{args.name}.json', dict(rows=rows, flops=flops, **about))


def processor_times(calls: Mapping[Any, Callable[[], Any]]) -> dict[Any, list[float]]:
    """Seconds of every call in interleaved rounds: each runs twice, and the second time counts."""
    keep_freed_memory()
    times = {key: [] for key in calls}
    for number in range(WARMUP + ROUNDS):
        for key, call in calls.items():
            call()
            begin = time.process_time()
            call()
            if number >= WARMUP:
                times[key].append(time.process_time() - begin)
    return times


def exported(
    model: nn.Module, args: argparse.Namespace, name: str, size: tuple[int, ...]
) -> dict[str, Callable[[np.ndarray], Any]]:
    """Runtime -> call of the model's file; int8 has the ranges of noise, which take as long."""
    path = args.work_dir / args.name / f'{name}.onnx'
    path.parent.mkdir(parents=True, exist_ok=True)
    int8 = path.with_suffix('.int8.onnx')
    if not int8.exists():
        export_onnx(model, path, size)
        quantize(path, int8, [torch.randn(1, *size).numpy() for _ in range(4)])
    return dict(
        onnxruntime=loaded(str(path), 'onnxruntime'),
        openvino=loaded(str(path), 'openvino'),
        int8=loaded(str(int8), 'onnxruntime'),
    )


def table() -> None:
    shown = Table(title='time as a share of the full model (ms)')
    for column in ('model', 'size', 'divisor', *RUNTIMES):
        shown.add_column(column)
    for path in sorted(RECORDS.glob('*.json')):
        for row in json.loads(path.read_text())['rows']:
            cells = [f'{row["ratio"][r]:.2f} ({row["ms"][r]:.1f})' for r in RUNTIMES]
            size = 'x'.join(map(str, row['size']))
            shown.add_row(path.stem, size, row['divisor'], *cells)
    Console(width=120).print(shown)


def main() -> None:
    args = parse_args()
    if not args.table:
        measure(args)
    table()


if __name__ == '__main__':
    main()
