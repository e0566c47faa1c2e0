"""The main job on the embedded digits, from nothing to a table, in about 15 minutes on 2 cores.

python tools/demo.py [--work-dir work_dirs/demo] [--seed 0]

Supernet, search at half the FLOPs, retraining, detection, segmentation: each step is a command that
is printed before it runs. An interrupted demo goes on where it stopped.
"""

import argparse
import collections
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image
from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table

import mmpse  # noqa: F401
from mmpse.command import run_command
from mmpse.engine import read_archive
from mmpse.files import write_json
from mmpse.models import measure
from mmpse.registry import MODELS
from mmpse.resources.busy import BUSY
from mmpse.space import Subnet
from mmpse.visualization import detections, picture, search_progress, width_profile, write_page
from mmpse.visualization import table as html_table

CONFIGS = 'configs/quickstart'
SUPERNET = f'{CONFIGS}/supernet_mobilenet-v2_digits.py'
SEARCH = f'{CONFIGS}/search_mobilenet-v2_digits.py'
RETRAIN = f'{CONFIGS}/retrain_mobilenet-v2_digits.py'
DETECTION = f'{CONFIGS}/retinanet_mobilenet-v2_digits.py'
SEGMENTATION = f'{CONFIGS}/fpn_mobilenet-v2_digits.py'
PROGRESS = re.compile(r'Epoch\((train|test)\).*|generation \d+: .*')
NOTE_TEXT = (
    'top-1, box mAP and mIoU on test data that no step has seen; FLOPs are multiply-adds of the '
    'classifier at 32x32; latency: PyTorch on this machine, one 128x128 image, median.'
)

console = Console()


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/demo'))
    parser.add_argument('--seed', type=int, default=0, help='seed of every step')
    parser.add_argument(
        '--classification-only', action='store_true', help='leave out detection and segmentation'
    )
    return parser.parse_args()


def final(config: str) -> str:
    """Name of the last checkpoint that a config trains."""
    return f'epoch_{Config.fromfile(config).train_cfg.max_epochs}.pth'


def steps(work: Path, seed: int, transfer: bool) -> list[tuple[str, list[str]]]:
    """Name and command of every step."""
    seeded = f'randomness.seed={seed}'
    best, uniform = work / 'search/best_subnet.json', work / 'uniform.json'
    subnets = dict(full='None', uniform=uniform, searched=best)
    jobs: list[tuple[str, list]] = []

    def train(name: str, config: str, *options: str) -> None:
        place = ['--work-dir', work / name, '--resume']
        jobs.append((name, ['tools/train.py', config, *place, '--cfg-options', seeded, *options]))

    def train_and_test(name: str, config: str, *options: str) -> None:
        train(name, config, *options)
        place = [work / name / final(config), '--work-dir', work / name / 'test']
        place += ['--out', work / name / 'metrics.json']
        jobs.append((f'{name}-test', ['tools/test.py', config, *place, '--cfg-options', *options]))

    jobs.append(('data', ['tools/dataset_converters/prepare_digits.py']))
    train('supernet', SUPERNET)
    train('search', SEARCH, f'load_from={work / "supernet" / final(SUPERNET)}')
    jobs.append(('uniform', ['tools/make_subnet.py', SEARCH, '--like', best, '-o', uniform]))
    for name, subnet in subnets.items():
        option = f'model.backbone.subnet={subnet}'
        train_and_test(f'retrain-{name}', RETRAIN, option)
        weights = work / f'retrain-{name}' / final(RETRAIN)
        if transfer:
            options = (option, f'model.backbone.init_cfg.checkpoint={weights}')
            train_and_test(f'detection-{name}', DETECTION, *options)
            train_and_test(f'segmentation-{name}', SEGMENTATION, *options)
    shown = [f'{name}={subnet}' for name, subnet in subnets.items()]
    latency = ['tools/benchmarks/latency.py', RETRAIN, '--subnets', *shown]
    latency += ['--input-shape', 3, 128, 128, '--json', work / 'latency.json']
    jobs.append(('latency', latency))
    return [(name, [str(part) for part in command]) for name, command in jobs]


def run(name: str, command: list[str], work: Path, place: str) -> None:
    """Run one step unless it is done; its output goes to a log, its progress to the screen."""
    done = work / 'done' / name
    line = shlex.join(['python', *command])
    if done.exists() and done.read_text() == line:
        console.print(f'{place} {name}: done before', style='dim', highlight=False)
        return
    console.print(f'{place} [bold]{name}[/bold]', highlight=False)
    console.print(f'  {line}', style='cyan', highlight=False, soft_wrap=True)
    log = work / 'logs' / f'{name}.log'
    log.parent.mkdir(parents=True, exist_ok=True)
    start, tail = time.monotonic(), collections.deque(maxlen=30)
    environment = dict(os.environ)
    if name == 'latency':  # threads that sleep while they wait (Makefile) answer late
        environment.pop('OMP_WAIT_POLICY', None)
    spinner = Spinner('dots', 'starting')
    with (
        log.open('a', buffering=1, encoding='utf-8') as file,
        subprocess.Popen(
            [sys.executable, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        ) as process,
        Live(spinner, console=console, transient=True),
    ):
        for output in process.stdout:
            file.write(output)
            tail.append(output.rstrip())
            if match := PROGRESS.search(output):
                spinner.update(text=' '.join(match[0].split())[: console.width - 4])
    if process.returncode:
        console.print('\n'.join(tail), markup=False, highlight=False)
        sys.exit(f'the step {name} failed (exit {process.returncode}); its whole output: {log}')
    done.parent.mkdir(exist_ok=True)
    done.write_text(line)
    console.print(f'  done in {time.monotonic() - start:.0f} s', style='dim', highlight=False)


def collect(work: Path) -> dict[str, dict[str, float]]:
    """The figures of all variants, from what the steps wrote."""
    latency = {row['name']: row['latency_ms'] for row in read_json(work / 'latency.json')}
    full = MODELS.build(dict(type='mmpse.SlimmableMobileNetV2')).search_space.fullnet
    subnets = dict(
        full=full,
        uniform=Subnet.load(work / 'uniform.json'),
        searched=Subnet.load(work / 'search/best_subnet.json'),
    )
    model = Config.fromfile(RETRAIN).model.to_dict()
    init_default_scope('mmpretrain')
    report = {}
    for name, subnet in subnets.items():
        cost = measure(model, subnet, (3, 32, 32))
        row = dict(top1=read_json(work / f'retrain-{name}/metrics.json')['accuracy/top1'])
        row.update(flops=cost['flops'], params=cost['params'], latency_ms=latency[name])
        if (work / f'detection-{name}/metrics.json').exists():
            boxes = read_json(work / f'detection-{name}/metrics.json')
            row['bbox_mAP'] = boxes['coco/bbox_mAP']
            row['bbox_mAP_50'] = boxes['coco/bbox_mAP_50']
            row['mIoU'] = read_json(work / f'segmentation-{name}/metrics.json')['mIoU']
        report[name] = row
    write_json(work / 'report.json', report)
    sections = [('Result', html_table(*texts(report)) + f'<p>{note(work)}</p>')]
    profile = width_profile({'uniform': subnets['uniform'], 'searched': subnets['searched']}, full)
    sections.append(('Widths', picture(profile, 'share of channels kept in every unit')))
    judged = read_archive(work / 'search/archive.db')
    sections.append(
        (
            'Search',
            picture(search_progress({'search': judged}, 'top-1 (%)'), 'progress of the search'),
        )
    )
    if 'mIoU' in report['searched']:
        sections.append(('Detections of the searched subnet, on test scenes', drawn_scenes(work)))
    write_page(work / 'report.html', 'mmpse: a MobileNetV2 at half the FLOPs', sections)
    return report


def drawn_scenes(work: Path, count: int = 5, threshold: float = 0.4) -> str:
    """Boxes that the detector with the searched backbone finds on the first test scenes."""
    from mmdet.apis import inference_detector, init_detector  # slow, and this is its only use

    detector = init_detector(
        str(work / 'detection-searched' / Path(DETECTION).name),
        str(work / 'detection-searched' / final(DETECTION)),
        device='cpu',
    )
    paths = sorted(Path('data/digits/scenes/test').glob('*.png'))[:count]
    boxes, labels = [], []
    for result in inference_detector(detector, [str(path) for path in paths]):
        found = result.pred_instances[result.pred_instances.scores > threshold]
        boxes.append(found.bboxes.numpy())
        pairs = zip(found.labels.tolist(), found.scores.tolist(), strict=True)
        labels.append([f'{label} {score:.2f}' for label, score in pairs])
    images = [np.asarray(Image.open(path)) for path in paths]
    return picture(detections(images, boxes, labels), 'test scenes with the boxes found')


def texts(report: dict[str, dict[str, float]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table."""
    columns = {
        'top1': ('top-1 (%)', '{:.2f}', 1),
        'flops': ('FLOPs (M)', '{:.2f}', 1e-6),
        'params': ('params (M)', '{:.2f}', 1e-6),
        'latency_ms': ('latency (ms)', '{:.1f}', 1),
        'bbox_mAP': ('box mAP', '{:.3f}', 1),
        'bbox_mAP_50': ('box mAP@50', '{:.3f}', 1),
        'mIoU': ('mIoU (%)', '{:.2f}', 1),
    }
    present = [key for key in columns if key in report['full']]
    header = ['backbone', *(columns[key][0] for key in present)]
    rows = []
    for name, figures in report.items():
        cells = [columns[key][1].format(figures[key] * columns[key][2]) for key in present]
        rows.append([name, *cells])
    return header, rows


def note(work: Path) -> str:
    """What the figures are, and whether latency is one of them."""
    factor = max(row['busy'] for row in read_json(work / 'latency.json'))
    if factor < BUSY:
        return NOTE_TEXT
    return (
        f'{NOTE_TEXT} The machine was busy: it took {factor:.1f} times as long as the processor '
        'worked, so that latencies are not to be relied on.'
    )


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())


def main() -> None:
    args = parse_args()
    start = time.monotonic()
    args.work_dir.mkdir(parents=True, exist_ok=True)
    jobs = steps(args.work_dir, args.seed, not args.classification_only)
    for number, (name, command) in enumerate(jobs, 1):
        run(name, command, args.work_dir, f'{number}/{len(jobs)}')
    report = collect(args.work_dir)
    header, rows = texts(report)
    table = Table(title='MobileNetV2 on the embedded digits')
    for k, column in enumerate(header):
        table.add_column(column, justify='right' if k else 'left')
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(note(args.work_dir), style='dim')
    minutes = (time.monotonic() - start) / 60
    console.print(f'{args.work_dir}/report.html and report.json written; {minutes:.1f} minutes.')


if __name__ == '__main__':
    run_command(main, 'the same command goes on')
