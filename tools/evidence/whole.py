"""Whole models pruned from their trained weights: every way of choosing widths, at every budget.

python tools/evidence/whole.py CONFIG CHECKPOINT --metric coco/bbox_mAP --name retinanet_bccd \
    --flops 50% 20% 10% --hows uniform sensitivity search --epochs 8 --seeds 0 1 2

Each pruning is one `mmpse prune` command; the test split is read once, by the pruned model. What is
done is not done again: a killed run goes on with the same command. Records are JSON files in
docs/results/whole, the widths lie in its folder subnets; `--table` prints them.
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from mmpse.files import write_json

RECORDS = Path('docs/results/whole')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', nargs='?')
    parser.add_argument('checkpoint', nargs='?')
    parser.add_argument('--name', help='of the record')
    parser.add_argument('--metric', help='of the test evaluator')
    parser.add_argument('--flops', nargs='+', default=['50%', '20%', '10%'])
    parser.add_argument('--hows', nargs='+', default=['uniform', 'sensitivity', 'search'])
    parser.add_argument('--epochs', type=int)
    parser.add_argument('--seeds', nargs='+', type=int, default=[0])
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/whole'))
    parser.add_argument('--table', action='store_true', help='print what was measured')
    args = parser.parse_args()
    if not args.table and not (args.config and args.checkpoint and args.name and args.metric):
        parser.error('CONFIG, CHECKPOINT, --name and --metric are needed to measure')
    return args


def command(*words: object) -> float:
    """Run a command of this Python; its seconds."""
    line = [sys.executable, *map(str, words)]
    print(shlex.join(['python', *line[1:]]), flush=True)
    start = time.monotonic()
    subprocess.run(line, check=True)
    return time.monotonic() - start


def test(config: Path | str, checkpoint: Path | str, out: Path) -> dict[str, float]:
    """The metrics of the test split."""
    command('tools/test.py', config, checkpoint, '--work-dir', out, '--out', out / 'test.json')
    return json.loads((out / 'test.json').read_text())


def measure(args: argparse.Namespace, flops: str, how: str, seed: int) -> None:
    path = RECORDS / f'{args.name}_{flops.rstrip("%")}_{how}_{seed}.json'
    if path.exists():
        return
    out = args.work_dir / path.stem
    words = ['-m', 'mmpse', 'prune', args.config, args.checkpoint, '--flops', flops, '--how', how]
    words += ['--seed', seed, '--resume', '-o', out]
    if args.epochs is not None:
        words += ['--epochs', args.epochs]
    seconds = command(*words)
    report = json.loads((out / 'report.json').read_text())
    row = dict(
        name=args.name,
        budget=flops,
        how=how,
        seed=seed,
        epochs=args.epochs,
        seconds=round(seconds),  # of the last command, if it was killed before
        flops=report['after']['flops'] / report['before']['flops'],
        metric=args.metric,
        test=test(out / 'pruned.py', out / 'pruned.pth', out / 'test').get(args.metric, 0.0),
        val=report['after'].get(args.metric, 0.0),
        report={k: report[k] for k in ('before', 'cut', 'after')},
    )
    subnets = RECORDS / 'subnets'
    subnets.mkdir(parents=True, exist_ok=True)
    shutil.copy(out / 'subnet.json', subnets / path.name)
    write_json(path, row)


def table() -> None:
    rows = [json.loads(path.read_text()) for path in sorted(RECORDS.glob('*.json'))]
    shown = Table(title='test split; mean and standard deviation over seeds')
    for column in ('model', 'budget', 'widths', 'FLOPs', 'metric', 'seeds', 'seconds'):
        shown.add_column(column)
    keys = dict.fromkeys((r['name'], r['budget'], r['how']) for r in rows)
    for key in sorted(keys, key=lambda k: (k[0], -float(k[1].rstrip('%')), k[2])):
        own = [r for r in rows if (r['name'], r['budget'], r['how']) == key]
        values = (
            100 * np.array([r['test'] for r in own])
            if own[0]['test'] <= 1
            else np.array([r['test'] for r in own])
        )
        spread = f' ± {values.std(ddof=1):.1f}' if len(values) > 1 else ''
        shown.add_row(
            *key,
            f'{np.mean([r["flops"] for r in own]):.1%}',
            f'{values.mean():.1f}{spread}',
            str(len(own)),
            f'{np.mean([r["seconds"] for r in own]):.0f}',
        )
    Console().print(shown)


def full(args: argparse.Namespace) -> None:
    path = RECORDS / f'{args.name}_100_full_0.json'
    if path.exists():
        return
    out = args.work_dir / path.stem
    metrics = test(args.config, args.checkpoint, out)
    row = dict(name=args.name, budget='100%', how='full', seed=0, epochs=0, seconds=0, flops=1.0)
    write_json(path, dict(row, metric=args.metric, test=metrics[args.metric]))


def main() -> None:
    args = parse_args()
    if not args.table:
        full(args)
        for seed in args.seeds:
            for flops in args.flops:
                for how in args.hows:
                    measure(args, flops, how, seed)
    table()


if __name__ == '__main__':
    main()
