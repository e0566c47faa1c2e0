"""A model and its pruned one where they run: every file's metric, and what each takes.

python tools/evidence/deployed.py CONFIG CHECKPOINT PRUNED --name retinanet-r18_bccd \
    --metric coco/bbox_mAP --input-shape 3 192 256

PRUNED is a folder of `mmpse prune`. Both models are exported in float32 and in int8, and all files
are timed in turn. The test split is read once by each file. The record is a JSON file in
docs/results/deployed; `--table` prints all.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from frame import circumstances
from rich.console import Console
from rich.table import Table

import mmpse
from mmpse.deploy import (
    calibration_images,
    evaluate,
    evaluate_onnx,
    export_onnx,
    loaded,
    prepared,
    quantize,
)
from mmpse.files import write_json
from mmpse.openmmlab.configs.files import load_config
from mmpse.resources.timing import measure_latencies

RECORDS = Path('docs/results/deployed')
RUNTIMES = 'torch', 'onnxruntime', 'openvino', 'int8'
IMAGES = 100  # that int8 is calibrated on


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', nargs='?')
    parser.add_argument('checkpoint', nargs='?')
    parser.add_argument('pruned', nargs='?', type=Path, help='folder of mmpse prune')
    parser.add_argument('--name', help='of the record')
    parser.add_argument('--metric', help='of the test evaluator')
    parser.add_argument('--input-shape', nargs=3, type=int, default=[3, 224, 224])
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/deployed'))
    parser.add_argument('--time', action='store_true', help='only time its files again')
    parser.add_argument('--table', action='store_true', help='print what was measured')
    args = parser.parse_args()
    if not args.table and not (args.pruned and args.name and args.metric):
        parser.error('CONFIG, CHECKPOINT, PRUNED, --name and --metric are needed to measure')
    return args


def sources(args: argparse.Namespace) -> dict[str, tuple[str | Path, str | Path]]:
    """Config and checkpoint of both models."""
    return dict(
        full=(args.config, args.checkpoint),
        pruned=(args.pruned / 'pruned.py', args.pruned / 'pruned.pth'),
    )


def command_of(args: argparse.Namespace) -> str:
    """What makes the record again, without the paths of its models."""
    shape = ' '.join(map(str, args.input_shape))
    return (
        'python tools/evidence/deployed.py CONFIG CHECKPOINT PRUNED '
        f'--name {args.name} --metric {args.metric} --input-shape {shape}'
    )


def file_of(args: argparse.Namespace, name: str) -> Path:
    """Where a model is exported to; the int8 file stands beside it."""
    return args.work_dir / args.name / f'{name}.onnx'


def measure(args: argparse.Namespace) -> dict[str, dict]:
    """Export and test both models."""
    rows: dict[str, dict] = {}
    for name, (config, checkpoint) in sources(args).items():
        cfg, model = load_config(config), mmpse.build(config, checkpoint)
        path = file_of(args, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        exported = export_onnx(model, path, args.input_shape, runtimes=('onnxruntime', 'openvino'))
        int8 = path.with_suffix('.int8.onnx')
        quantize(path, int8, calibration_images(cfg, model, IMAGES))
        rows[name] = dict(
            agreement=exported.agreement,
            metric=dict(
                torch=float(evaluate(model, cfg, 'test')[args.metric]),
                onnxruntime=float(evaluate_onnx(path, cfg, 'test')[args.metric]),
                openvino=float(evaluate_onnx(path, cfg, 'test', 'openvino')[args.metric]),
                int8=float(evaluate_onnx(int8, cfg, 'test')[args.metric]),
            ),
            bytes=dict(onnxruntime=path.stat().st_size, int8=int8.stat().st_size),
        )
    return rows


def time_files(args: argparse.Namespace, rows: dict[str, dict]) -> float:
    """Add milliseconds of one image to the rows; how busy the machine was."""
    images = torch.randn(1, *args.input_shape)
    calls = {}
    for name, source in sources(args).items():
        path = file_of(args, name)
        for runtime in RUNTIMES:
            if runtime == 'torch':
                calls[name, runtime] = prepared(mmpse.build(*source), images)
                continue
            file = loaded(
                str(path.with_suffix('.int8.onnx') if runtime == 'int8' else path),
                'openvino' if runtime == 'openvino' else 'onnxruntime',
            )
            calls[name, runtime] = lambda file=file: file(images.numpy())
    times = measure_latencies(calls)
    for (name, runtime), seconds in times.items():
        rows[name].setdefault('ms', {})[runtime] = 1e3 * statistics.median(seconds)
    return times.busy


def table() -> None:
    shown = Table(title='test metric and latency of one image, full -> pruned')
    for column in ('model', 'runtime', 'metric', 'ms', 'ratio'):
        shown.add_column(column)
    for path in sorted(RECORDS.glob('*.json')):
        row = json.loads(path.read_text())
        for runtime in RUNTIMES:
            full, pruned = (row[k]['ms'][runtime] for k in ('full', 'pruned'))
            metrics = ' -> '.join(f'{row[k]["metric"][runtime]:.3f}' for k in ('full', 'pruned'))
            shown.add_row(
                path.stem, runtime, metrics, f'{full:.2f} -> {pruned:.2f}', f'{pruned / full:.2f}'
            )
    Console().print(shown)


def main() -> None:
    args = parse_args()
    if not args.table:
        wall, cpu = time.monotonic(), time.process_time()
        path = RECORDS / f'{args.name}.json'
        rows = json.loads(path.read_text()) if args.time else measure(args)
        about = dict(metric=args.metric, threads=torch.get_num_threads())
        about['busy'] = time_files(args, rows)
        about.update(circumstances(time.monotonic() - wall, time.process_time() - cpu))
        write_json(path, dict(rows, **about, command=command_of(args)))
    table()


if __name__ == '__main__':
    main()
