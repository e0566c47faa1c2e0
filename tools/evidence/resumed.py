"""Kill `mmpse prune` at six moments, go on with --resume, and compare with a run left alone.

python tools/evidence/resumed.py CONFIG CHECKPOINT --flops 10% --epochs 2

Compared are the weights tensor by tensor, the widths, the curves of sensitivity and the report, but
for what was measured by the clock. The record is docs/results/resumed.json.
"""

import argparse
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from frame import circumstances, read_json

from mmpse.files import write_json

RECORD, WORK = Path('docs/results/resumed.json'), Path('work_dirs/resumed')
MEASURED = ('latency_ms', 'onnxruntime_ms')


def in_training(out: Path) -> bool:
    latest = out / 'steps/finetune/last_checkpoint'
    return latest.exists() and latest.read_text().endswith('epoch_1.pth')


MOMENTS: dict[str, Callable[[Path], bool]] = {
    'while units are found': lambda out: (out / 'steps/settings.json').exists(),
    'while sensitivity is measured': lambda out: (out / 'steps/before.json').exists(),
    'while a checkpoint is written': lambda out: (out / 'steps/finetune/epoch_1.pth').exists(),
    'in the second epoch': in_training,
    'before the report': lambda out: (out / 'steps/finetuned.json').exists(),
    'while the pruned model is saved': lambda out: any(out.glob('.pruned.*.pth')),
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('--flops', default='10%')
    parser.add_argument('--epochs', default='2', help='at least 2')
    return parser.parse_args()


def start(args: argparse.Namespace, out: Path) -> subprocess.Popen:
    words = ['-m', 'mmpse', 'prune', args.config, args.checkpoint, '--flops', args.flops]
    words += ['--epochs', args.epochs, '--resume', '-o', str(out)]
    return subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def killed(args: argparse.Namespace, out: Path, moment: Callable[[Path], bool]) -> bool:
    """Run until the moment, and kill; whether it came."""
    run = start(args, out)
    while run.poll() is None:
        if moment(out):
            run.send_signal(signal.SIGKILL)
            run.wait()
            return True
        time.sleep(2e-4)
    return False


def result(out: Path) -> dict[str, object]:
    """What has to be the same."""
    report = read_json(out / 'report.json')
    for stage in ('before', 'cut', 'after'):
        report[stage] = {k: v for k, v in report[stage].items() if k not in MEASURED}
    return dict(
        report={stage: report[stage] for stage in ('before', 'cut', 'after')},
        subnet=json.loads((out / 'subnet.json').read_text()),
        sensitivity=read_json(out / 'steps/sensitivity.json'),
        weights=torch.load(out / 'pruned.pth', weights_only=True)['state_dict'],
    )


def same(one: dict, other: dict) -> dict[str, bool]:
    """Key of :func:`result` -> whether it is the same, to the last bit."""
    weights, others = one['weights'], other['weights']
    found = {key: one[key] == other[key] for key in one if key != 'weights'}
    equal = weights.keys() == others.keys() and all(
        torch.equal(weights[k], others[k]) for k in weights
    )
    return dict(found, weights=equal)


def main() -> None:
    args = parse_args()
    began = time.monotonic()
    shutil.rmtree(WORK, ignore_errors=True)
    alone = WORK / 'alone'
    if start(args, alone).wait():
        raise SystemExit(f'the run left alone failed; see {alone}/prune.log')
    wanted, rows = result(alone), []
    for number, (name, moment) in enumerate(MOMENTS.items()):
        out = WORK / str(number)
        came = killed(args, out, moment)
        status = start(args, out).wait()
        row = dict(killed=name, came=came, status=status)
        if status == 0:
            row.update(same(wanted, result(out)))
        print(row, flush=True)
        rows.append(row)
    words = f'{args.config} CHECKPOINT --flops {args.flops} --epochs {args.epochs}'
    command = f'python tools/evidence/resumed.py {words}'
    write_json(
        RECORD, dict(rows=rows, command=command, **circumstances(time.monotonic() - began, 0))
    )


if __name__ == '__main__':
    main()
