"""Trained models pruned as wholes: every way of choosing widths, and rivals, at several budgets.

python tools/evidence/whole.py retinanet-r18_bccd [--only '*_10_*']

The trained model is given to all, and after it all have the same fine-tuning: as many epochs, one
schedule. Each pruning is one `mmpse prune` command; Torch-Pruning chooses channels and
shares the rest (rivals.py); `unpruned` is the full model trained as much longer. The test
split is read once, by the result.

What is done is not done again: a killed run goes on with the same command. A model that is not
trained yet is trained first, from scratch by its config. Records are JSON files in
docs/results/whole; the widths lie in its folder subnets. `--table` prints what was measured.
"""

import argparse
import fnmatch
import os
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from frame import circumstances, read_json
from mmengine.config import Config
from rich.console import Console
from rich.table import Table

from mmpse.files import write_json

HERE = Path(__file__).resolve().parent
RECORDS, WORK = Path('docs/results/whole'), Path('work_dirs/whole')
RIVAL, PART = HERE / 'rivals.py', HERE / 'parts.py'
HOWS = {  # in the order of tables -> what it runs; `trained` runs nothing
    'trained': [],
    'unpruned': [RIVAL, '--importance', 'none'],
    'uniform': ['-m', 'mmpse', 'prune', '--how', 'uniform'],
    'torch-pruning': [RIVAL, '--importance', 'norm', '--most', '0.875'],
    'torch-pruning-taught': [RIVAL, '--importance', 'norm', '--most', '0.875', '--teacher'],
    'torch-pruning-fifth': [RIVAL, '--importance', 'norm', '--most', '0.8', '--teacher'],
    'torch-pruning-taylor': [RIVAL, '--importance', 'taylor', '--most', '0.875', '--teacher'],
    'torch-pruning-taylor-fifth': [RIVAL, '--importance', 'taylor', '--most', '0.8', '--teacher'],
    'fastnas': [RIVAL, '--importance', 'fastnas'],
    'sensitivity': ['-m', 'mmpse', 'prune', '--how', 'sensitivity'],
    'search': ['-m', 'mmpse', 'prune', '--how', 'search'],
    'uniform-longer': ['-m', 'mmpse', 'prune', '--how', 'uniform'],
    'sensitivity-longer': ['-m', 'mmpse', 'prune', '--how', 'sensitivity'],
    'sensitivity-taught': ['-m', 'mmpse', 'prune', '--how', 'sensitivity', '--teacher'],
    'sensitivity-backbone': ['-m', 'mmpse', 'prune', '--keep', 'neck*', '*head*'],
    'uniform-l1': ['-m', 'mmpse', 'prune', '--how', 'uniform', '--sort', 'l1'],
    'uniform-bn': ['-m', 'mmpse', 'prune', '--how', 'uniform', '--sort', 'bn'],
    'uniform-group': ['-m', 'mmpse', 'prune', '--how', 'uniform', '--sort', 'group'],
    'uniform-taylor': ['-m', 'mmpse', 'prune', '--how', 'uniform', '--sort', 'taylor'],
    'uniform-unsorted': [PART, '--without', 'sorting'],
    'uniform-recalibrated': [PART, '--without', 'reconstruction'],
    'uniform-l1-recalibrated': [PART, '--without', 'reconstruction', '--sort', 'l1'],
    'sensitivity-sixteenth': [PART, '--how', 'sensitivity', '--floor', '0.0625'],
    'sensitivity-fifth': [PART, '--how', 'sensitivity', '--floor', '0.2'],
    'scratch': [PART, '--without', 'weights'],
    'scratch-longer': [PART, '--without', 'weights'],
}
MAIN = ('uniform', 'torch-pruning', 'fastnas', 'sensitivity', 'search')
LONGER = ('uniform-longer', 'sensitivity-longer')  # at equal time in all: as long as `search`
VARIANTS = (
    'torch-pruning-taught',
    'torch-pruning-fifth',
    'torch-pruning-taylor',
    'torch-pruning-taylor-fifth',
    'sensitivity-taught',
    'sensitivity-sixteenth',
    'sensitivity-fifth',
)
PARTS = (  # what each part of the command brings
    'uniform-unsorted',
    'uniform-l1',
    'uniform-bn',
    'uniform-group',
    'uniform-taylor',
    'uniform-recalibrated',
    'uniform-l1-recalibrated',
)
SCRATCH = (
    'scratch',
    'scratch-longer',
)  # small from the start, in as many epochs; everything counts
ALONE = ('unpruned',)
STEPS = {  # of a pruning, in its order -> what it leaves in its folder when it is done
    'evaluation': 'before.json',
    'sorting': 'sorted.pth',
    'sensitivity': 'sensitivity.json',
    'exploring': 'explored.json',
    'choice': 'choice.json',
    'cut': 'cut.json',
    'fine-tuning': 'finetuned.json',
    'report': 'measured.json',
}


class Model(NamedTuple):
    """A model that is pruned.

    Attributes:
        title: Of its rows: the model, the data, the metric.
        config: Trains it.
        metric: What is measured on the test split.
        epochs: Of fine-tuning.
        budgets: Of FLOPs, or of ``'latency 50%'``.
        hows: At each budget.
        seeds: How many.
        backbone: The budget at which the backbone alone is pruned; it cannot reach much less.
    """

    title: str
    config: str
    metric: str
    epochs: int
    budgets: tuple[str, ...]
    hows: tuple[str, ...] = MAIN
    seeds: int = 1
    backbone: str | None = None


MODELS = {
    'retinanet-r18_bccd': Model(
        'RetinaNet R-18 on BCCD, box mAP',
        'configs/bccd/retinanet_resnet18-w0p5_fpn96_bccd.py',
        'coco/bbox_mAP',
        8,
        ('10%', '20%', '50%', 'latency 50%'),
        (*MAIN, *LONGER, *PARTS, *SCRATCH, *VARIANTS),
        seeds=3,
        backbone='55%',
    ),
    'rtmdet-tiny_bccd': Model(
        'RTMDet-tiny on BCCD, box mAP',
        'configs/bccd/rtmdet_tiny_bccd.py',
        'coco/bbox_mAP',
        4,
        ('latency 50%', '20%', '50%', '10%'),
        (*MAIN, 'sensitivity-taught'),
        seeds=3,
        backbone='70%',
    ),
    'semantic-fpn-r18_camvid': Model(
        'Semantic FPN R-18 on CamVid, mIoU',
        'configs/camvid/fpn_resnet18-w0p5_camvid.py',
        'mIoU',
        5,
        ('50%', '10%'),
        seeds=3,
    ),
    'deeplabv3plus-r18_camvid': Model(
        'DeepLabV3+ R-18 on CamVid, mIoU',
        'configs/camvid/deeplabv3plus_resnet18-w0p5_camvid.py',
        'mIoU',
        5,
        ('50%',),
    ),
    'resnet20_cifar10': Model(
        'ResNet-20 on CIFAR-10, accuracy',
        'configs/cifar10/short_resnet20_cifar10.py',
        'accuracy/top1',
        3,
        ('25%', '50%', '15%'),
        (*MAIN, *LONGER, *SCRATCH),
        seeds=3,
    ),
    'vgg11_cifar10': Model(
        'VGG-11 on CIFAR-10, accuracy',
        'configs/cifar10/short_vgg11_cifar10.py',
        'accuracy/top1',
        2,
        ('15%', '50%'),
        (*MAIN, *LONGER),
        seeds=3,
    ),
    'mobilenet-v2_cifar10': Model(
        'MobileNetV2 0.5x on CIFAR-10, accuracy',
        'configs/cifar10/short_mobilenet-v2-w0p5_cifar10.py',
        'accuracy/top1',
        3,
        ('15%', '50%'),
        (*MAIN, *LONGER),
        seeds=3,
    ),
}


class Run(NamedTuple):
    """One result."""

    name: str  # of the model
    budget: str
    how: str
    seed: int

    def __str__(self) -> str:
        budget = self.budget.rstrip('%').replace(' ', '-')
        return f'{self.name}_{budget}_{self.how}_{self.seed}'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('models', nargs='*', metavar='MODEL', help=', '.join(MODELS))
    parser.add_argument('--only', nargs='+', default=['*'], metavar='PATTERN', help='of records')
    parser.add_argument('--table', action='store_true', help='only print what was measured')
    args = parser.parse_args()
    if unknown := set(args.models) - set(MODELS):
        parser.error(f'no model {", ".join(unknown)}; there are {", ".join(MODELS)}')
    return args


def runs(name: str) -> Iterator[Run]:
    """The results of a model, in the order of their worth, if there is not the time for all."""
    model = MODELS[name]
    yield Run(name, '100%', 'trained', 0)
    for seed in range(model.seeds):
        yield from (Run(name, '100%', how, seed) for how in ALONE)
        for budget in model.budgets:
            hows = [how for how in model.hows if ' ' not in budget or HOWS[how][0] == '-m']
            yield from (Run(name, budget, how, seed) for how in hows)  # rivals know FLOPs alone
        if model.backbone:
            yield Run(name, model.backbone, 'sensitivity-backbone', seed)


def command(*words: object) -> tuple[float, float]:
    """Run a command of this Python; its seconds, by the clock and of the processor."""
    line = [sys.executable, *map(str, words)]
    print(shlex.join(['python', *line[1:]]), flush=True)
    paths = filter(None, [str(HERE), os.environ.get('PYTHONPATH')])
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(line, check=True, env=dict(os.environ, PYTHONPATH=os.pathsep.join(paths)))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - start, cpu


def test(config: Path | str, checkpoint: Path | str, out: Path) -> dict[str, float]:
    """The metrics of the test split."""
    command('tools/test.py', config, checkpoint, '--work-dir', out, '--out', out / 'test.json')
    return read_json(out / 'test.json')


def step_seconds(folder: Path, begun: float) -> dict[str, float]:
    """What the steps of a pruning took, by the clock, from what they left and when."""
    found = {}
    for step, name in STEPS.items():
        if (folder / name).exists():
            done = (folder / name).stat().st_mtime
            found[step], begun = round(done - begun, 1), done
    return found


def trained(name: str) -> Path:
    """The trained model, which is trained if it is not there."""
    path, folder = WORK / f'{name}.pth', WORK / f'{name}_100_trained_0'
    if not path.exists():
        command('tools/train.py', MODELS[name].config, '--work-dir', folder, '--resume')
        shutil.copy((folder / 'last_checkpoint').read_text().strip(), path)
    return path


def epochs_of(run: Run) -> int:
    """Of fine-tuning: the model's, or as many as take the seconds that others take in all.

    `uniform-longer` and `sensitivity-longer` take as long as `search`; `scratch-longer` as long as
    the training of the full model and its pruning by `sensitivity`.
    """
    epochs, (how, _, longer) = MODELS[run.name].epochs, run.how.partition('-')
    if longer != 'longer':
        return epochs

    own, other = (
        row_of(run._replace(how=which, seed=0))
        for which in (how, 'sensitivity' if how == 'scratch' else 'search')
    )
    seconds, epoch = other['cpu_seconds'] - own['cpu_seconds'], epoch_seconds(own)
    if how == 'scratch':
        seconds += full_seconds(run.name, [row_of(Run(run.name, '100%', 'unpruned', 0))])
        # of many epochs: by two trainings of the same small model, since a start takes time, too
        short, long = (row_of(run._replace(how=f'uniform{x}', seed=0)) for x in ('', '-longer'))
        epoch = (long['cpu_seconds'] - short['cpu_seconds']) / (long['epochs'] - short['epochs'])
    return epochs + round(seconds / epoch)


def row_of(run: Run) -> dict:
    """The record of a run that others go by."""
    path = RECORDS / f'{run}.json'
    if not path.exists():
        sys.exit(f'how long it may take follows from {path}, which is not there yet')
    return read_json(path)


def full_seconds(name: str, rows: Iterable[dict]) -> float:
    """CPU seconds of the full model's training, by what an epoch of it takes in `unpruned`."""
    epochs = Config.fromfile(MODELS[name].config).train_cfg.max_epochs
    own = (row for row in rows if (row['name'], row['how']) == (name, 'unpruned'))
    return epochs * epoch_seconds(next(row for row in own if row.get('steps')))


def epoch_seconds(row: dict) -> float:
    """CPU seconds of an epoch of fine-tuning."""
    share = row['steps']['fine-tuning'] / sum(row['steps'].values())
    return row['cpu_seconds'] * share / row['epochs']


def measure(run: Run) -> None:
    """Write the record of a result, if there is none."""
    path = RECORDS / f'{run}.json'
    if path.exists():
        return
    model, checkpoint, out = MODELS[run.name], trained(run.name), WORK / str(run)
    epochs = epochs_of(run)
    record = dict(run._asdict(), epochs=epochs, metric=model.metric)
    if run.how == 'trained':
        tested = test(model.config, checkpoint, out)
        figures = dict(epochs=0, flops=1.0, test=tested[model.metric], **circumstances(0, 0))
    else:
        kind, _, amount = run.budget.rpartition(' ')
        words = [*HOWS[run.how], f'--{kind or "flops"}', amount, '--epochs', epochs]
        words += ['--seed', run.seed, '--resume', '-o', out]
        where = 3 if words[0] == '-m' else 1
        words[where:where] = [model.config, checkpoint]
        resumed, begun = out.exists(), time.time()
        seconds = command(*words)
        report = read_json(out / 'report.json')
        stages = {stage: report[stage] for stage in ('before', 'cut', 'after')}
        tested = test(out / 'pruned.py', out / 'pruned.pth', out / 'test')
        figures = dict(
            flops=report['after']['flops'] / report['before']['flops'],
            test=tested.get(model.metric, 0.0),
            val=report['after'].get(model.metric, 0.0),
            report=stages,
            steps=step_seconds(out / 'steps', begun),
            **circumstances(*seconds),
        )
        if resumed:  # it took longer than this command
            figures.update(steps=None, seconds=None, cpu_seconds=None)
        subnets = RECORDS / 'subnets'
        subnets.mkdir(parents=True, exist_ok=True)
        shutil.copy(out / 'subnet.json', subnets / path.name)
    again = f'python tools/evidence/whole.py {run.name} --only {run}'
    write_json(path, dict(record, **figures, command=again))


def records(folder: Path = RECORDS) -> list[dict]:
    """What was measured, in the order of tables."""
    found = [read_json(path) for path in sorted(folder.glob('*.json'))]
    order = list(HOWS).index
    return sorted(
        found,
        key=lambda r: (r['name'], ' ' in r['budget'], -percent(r['budget']), order(r['how'])),
    )


def points(rows: Iterable[dict], split: str) -> list[float]:
    """Metrics of the split that there are, in percent."""
    values = [row[split] for row in rows if split in row]
    return [value if value > 1 else 100 * value for value in values]


def percent(budget: str) -> float:
    return float(budget.rpartition(' ')[2].rstrip('%'))


def table(names: list[str]) -> None:
    shown = Table(title='test split; mean and standard deviation over seeds')
    for column in ('model', 'budget', 'how', 'FLOPs', 'metric', 'seeds', 'CPU seconds'):
        shown.add_column(column)
    groups: dict[tuple[str, str, str], list[dict]] = {}
    for row in records():
        if not names or row['name'] in names:
            groups.setdefault((row['name'], row['budget'], row['how']), []).append(row)
    for key, rows in groups.items():
        values = points(rows, 'test')
        spread = f' ± {statistics.stdev(values):.1f}' if len(values) > 1 else ''
        flops = statistics.mean(r['flops'] for r in rows)
        seconds = statistics.mean(r.get('cpu_seconds') or 0 for r in rows)
        metric = f'{statistics.mean(values):.1f}{spread}'
        shown.add_row(*key, f'{flops:.1%}', metric, str(len(rows)), f'{seconds:.0f}')
    Console().print(shown)


def main() -> None:
    args, failed = parse_args(), []
    if not args.table:
        for name in args.models or MODELS:
            for run in runs(name):
                if any(fnmatch.fnmatch(str(run), pattern) for pattern in args.only):
                    try:
                        measure(run)
                    except subprocess.CalledProcessError:  # its command has said why
                        failed.append(str(run))
    table(args.models)
    if failed:
        sys.exit(f'failed, and told above: {", ".join(failed)}')


if __name__ == '__main__':
    main()
