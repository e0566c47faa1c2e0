"""Trained models pruned as wholes: mmpse's methods and their rivals, at several budgets.

python tools/evidence/whole.py retinanet-r18_bccd [--only '*_10_*']

The runs are those of runs.py. All methods are given the same trained model, and fine-tune what
they prune equally long, by one schedule. Each run is one command: `mmpse prune`, or a script that
replaces a part of it (rivals.py, parts.py). `unpruned` is the full model trained as much longer.
The test split is read once, by the result.

What is done is not done again: a killed run goes on with the same command. A model that is not
trained yet is trained first, from scratch by its config. Records are JSON files in
docs/results/whole; the widths lie in its folder subnets. `--table` prints what was measured.
"""

from __future__ import annotations

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
from pathlib import Path
from typing import Any

from frame import circumstances, read_json
from records import RECORDS, epoch_seconds, full_seconds, points, record_of, records
from rich.console import Console
from rich.table import Table
from runs import HERE, METHODS, MODELS, Run, runs

from mmpse.files import write_json

WORK = Path('work_dirs/whole')
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


def run_python(*words: object) -> tuple[float, float]:
    """Run a command of this Python; its seconds, by the clock and of the processor."""
    line = [sys.executable, *map(str, words)]
    print(shlex.join(['python', *line[1:]]), flush=True)
    paths = filter(None, [str(HERE), os.environ.get('PYTHONPATH')])
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(line, check=True, env=dict(os.environ, PYTHONPATH=os.pathsep.join(paths)))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - start, cpu


def test_metrics(config: Path | str, checkpoint: Path | str, out: Path) -> dict[str, float]:
    """The metrics of the test split."""
    run_python('tools/test.py', config, checkpoint, '--work-dir', out, '--out', out / 'test.json')
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
    """The checkpoint of a model, which is trained if it is not there."""
    path, folder = WORK / f'{name}.pth', WORK / f'{name}_100_trained_0'
    if not path.exists():
        run_python('tools/train.py', MODELS[name].config, '--work-dir', folder, '--resume')
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
        record_of(run._replace(how=which, seed=0))
        for which in (how, 'sensitivity' if how == 'scratch' else 'search')
    )
    seconds, epoch = other['cpu_seconds'] - own['cpu_seconds'], epoch_seconds(own)
    if how == 'scratch':
        seconds += full_seconds(run.name, [record_of(Run(run.name, '100%', 'unpruned', 0))])
        # of many epochs: by two trainings of the same small model, since a start takes time, too
        short, long = (record_of(run._replace(how=f'uniform{x}', seed=0)) for x in ('', '-longer'))
        epoch = (long['cpu_seconds'] - short['cpu_seconds']) / (long['epochs'] - short['epochs'])
    return epochs + round(seconds / epoch)


def measure(run: Run) -> None:
    """Write the record of a run, if there is none."""
    path = RECORDS / f'{run}.json'
    if path.exists():
        return
    model, epochs = MODELS[run.name], epochs_of(run)
    if run.how == 'trained':
        tested = test_metrics(model.config, trained(run.name), WORK / str(run))
        figures = dict(epochs=0, flops=1.0, test=tested[model.metric], **circumstances(0, 0))
    else:
        figures = pruned(run, epochs)
    again = f'python tools/evidence/whole.py {run.name} --only {run}'
    about = dict(run._asdict(), epochs=epochs, metric=model.metric)
    write_json(path, {**about, **figures, 'command': again})


def pruned(run: Run, epochs: int) -> dict[str, Any]:
    """Prune the trained model as the run says, and keep the widths; the figures of its record."""
    model, out = MODELS[run.name], WORK / str(run)
    checkpoint = trained(run.name)
    kind, _, amount = run.budget.rpartition(' ')
    words = [*METHODS[run.how], f'--{kind or "flops"}', amount, '--epochs', epochs]
    words += ['--seed', run.seed, '--resume', '-o', out]
    where = 3 if words[0] == '-m' else 1
    words[where:where] = [model.config, checkpoint]
    resumed, begun = out.exists(), time.time()
    seconds = run_python(*words)
    report = read_json(out / 'report.json')
    tested = test_metrics(out / 'pruned.py', out / 'pruned.pth', out / 'test')
    figures = dict(
        flops=report['after']['flops'] / report['before']['flops'],
        test=tested.get(model.metric, 0.0),
        val=report['after'].get(model.metric, 0.0),
        report={stage: report[stage] for stage in ('before', 'cut', 'after')},
        steps=step_seconds(out / 'steps', begun),
        **circumstances(*seconds),
    )
    if resumed:  # it took longer than this command
        figures.update(steps=None, seconds=None, cpu_seconds=None)
    subnets = RECORDS / 'subnets'
    subnets.mkdir(parents=True, exist_ok=True)
    shutil.copy(out / 'subnet.json', subnets / f'{run}.json')
    return figures


def table(names: list[str]) -> None:
    shown = Table(title='test split; mean and standard deviation over seeds')
    for column in ('model', 'budget', 'method', 'FLOPs', 'metric', 'seeds', 'CPU seconds'):
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
