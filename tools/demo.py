"""The main job on the embedded digits, from nothing to a table, in about 15 minutes on 2 cores.

python tools/demo.py [--work-dir work_dirs/demo] [--seed 0]

A stock classifier, detector and segmentor are trained. Then `mmpse prune` halves the FLOPs of each
as a whole, in every way of choosing widths. Each step is a command that is printed before it runs.
An interrupted demo goes on where it stopped.
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

from mmengine.config import Config
from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner

import mmpse  # noqa: F401
from mmpse.command import run_command
from mmpse.files import write_json
from mmpse.visualization import table as html_table
from mmpse.visualization import text_table, write_page

CONFIGS = 'configs/quickstart'
MODELS = ('classifier', 'detector', 'segmentor')
EPOCHS = dict(classifier=6, detector=2, segmentor=2)  # of fine-tuning
HOWS = dict(uniform='uniform', sensitivity='sensitivity', searched='search')
BUDGET = '50%'
PROGRESS = re.compile(r'Epoch\((train|val)\).*|\w+: loss .*')
METRICS = dict(  # in this report -> in that of a pruning
    classifier={'top1': 'accuracy/top1'},
    detector={'bbox_mAP': 'coco/bbox_mAP', 'bbox_mAP_50': 'coco/bbox_mAP_50'},
    segmentor={'mIoU': 'mIoU'},
)
RESOURCES = ('flops', 'params', 'latency_ms')  # of the classifier
NOTE = (
    'top-1, box mAP and mIoU on images that no training and no choice has seen; FLOPs '
    '(multiply-adds at 32x32), parameters and latency (PyTorch, this machine) are those of the '
    'classifier; detector and segmentor are halved as wholes, too.'
)

console = Console()


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/demo'))
    parser.add_argument('--seed', type=int, default=0, help='seed of every step')
    return parser.parse_args()


def config_of(model: str) -> str:
    return f'{CONFIGS}/{model}_digits.py'


def trained(work: Path, model: str) -> Path:
    """The last checkpoint of the full model."""
    epochs = Config.fromfile(config_of(model)).train_cfg.max_epochs
    return work / model / f'epoch_{epochs}.pth'


def steps(work: Path, seed: int) -> list[tuple[str, list[str]]]:
    """Name and command of every step."""
    jobs: list[tuple[str, list]] = [('data', ['tools/dataset_converters/prepare_digits.py'])]
    for model in MODELS:
        options = [f'randomness.seed={seed}']
        if model != 'classifier':
            weights = trained(work, 'classifier')
            options.append(f'model.backbone.init_cfg.checkpoint={weights}')
        place = ['--work-dir', work / model, '--resume']
        jobs.append(
            (model, ['tools/train.py', config_of(model), *place, '--cfg-options', *options])
        )
    for model in MODELS:
        for name, how in HOWS.items():
            command = ['-m', 'mmpse', 'prune', config_of(model), trained(work, model)]
            command += ['--flops', BUDGET, '--how', how, '--epochs', EPOCHS[model]]
            command += ['--seed', seed, '--resume', '-o', work / f'{model}-{name}']
            jobs.append((f'{model}-{name}', command))
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
    spinner = Spinner('dots', 'starting')
    with (
        log.open('a', buffering=1, encoding='utf-8') as file,
        subprocess.Popen(
            [sys.executable, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
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
    """The figures of the full models and of all ways, from what the prunings reported."""
    report: dict[str, dict[str, float]] = {'full': {}}
    for name in HOWS:
        report[name] = {}
        for model in MODELS:
            content = json.loads((work / f'{model}-{name}/report.json').read_text())
            for row, stage in (('full', 'before'), (name, 'after')):
                if model == 'classifier':
                    report[row].update({key: content[stage][key] for key in RESOURCES})
                for key, metric in METRICS[model].items():
                    report[row][key] = content[stage].get(metric, 0.0)  # no box was found
    write_json(work / 'report.json', report)
    links = ''.join(
        f'<p><a href="{model}-{name}/report.html">{model}, {name}</a></p>'
        for model in MODELS
        for name in HOWS
    )
    sections = [
        ('Result', html_table(*texts(report)) + f'<p>{NOTE}</p>'),
        ('Widths, sensitivity and predictions of each pruning', links),
    ]
    write_page(work / 'report.html', f'mmpse: whole models at {BUDGET} of the FLOPs', sections)
    return report


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
    rows = [
        [name, *(form.format(figures[key] * unit) for key, (_, form, unit) in columns.items())]
        for name, figures in report.items()
    ]
    return ['model', *(title for title, _, _ in columns.values())], rows


def main() -> None:
    args = parse_args()
    start = time.monotonic()
    args.work_dir.mkdir(parents=True, exist_ok=True)
    jobs = steps(args.work_dir, args.seed)
    for number, (name, command) in enumerate(jobs, 1):
        run(name, command, args.work_dir, f'{number}/{len(jobs)}')
    title = f'whole models at {BUDGET} of their FLOPs, on the embedded digits'
    print(text_table(*texts(collect(args.work_dir)), title))
    console.print(NOTE, style='dim')
    minutes = (time.monotonic() - start) / 60
    console.print(f'{args.work_dir}/report.html and report.json written; {minutes:.1f} minutes.')


if __name__ == '__main__':
    os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
    run_command(main, 'the same command goes on')
