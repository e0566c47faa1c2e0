"""What a training step, a judged subnet and a drawn subnet cost: the benchmarks, kept as records.

python tools/evidence/cost.py [--only judge sampling]

Runs tools/benchmarks, each in up to about a quarter of an hour on two cores: the larger networks in
fewer rounds or smaller batches. The machine should have nothing else to do.
"""

from __future__ import annotations

import argparse
import functools
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from frame import ROOT, Advance, Unit, read_json, run_units

from mmpse.command import run_command

SETTINGS = {  # of tools/benchmarks/train_step.py
    'MobileNetV2-1.5x': ['--rounds', '3'],
    'ResNet-50': ['--rounds', '3', '--batch', '16'],
    'VGG16-BN': ['--rounds', '3', '--batch', '8'],
}
BENCHMARKS = {
    f'train_step_{network}_{dtype}': [
        *('tools/benchmarks/train_step.py', '--networks', network, '--dtypes', dtype),
        *settings,
    ]
    for dtype in ('float32', 'bfloat16')
    for network, settings in SETTINGS.items()
}
# glibc otherwise gives large tensors back to the system, which clears them anew in every step
REUSED_MEMORY = dict(MALLOC_MMAP_MAX_='0', MALLOC_TRIM_THRESHOLD_='100000000000')
for network, rounds in (('MobileNetV2-1.5x', '5'), ('ResNet-50', '2')):  # with fewer FLOPs
    for suffix in ('', '_reused-memory'):
        BENCHMARKS[f'train_step_{network}_uniform{suffix}'] = [
            *('tools/benchmarks/train_step.py', '--networks', network, '--dtypes', 'float32'),
            *('--sampler', 'uniform', '--n', '4', '--modes', 'masked', 'sliced', 'sandwich'),
            *('--rounds', rounds),
        ]
DETECTOR = 'configs/bccd/retinanet_resnet18-w0p5_fpn96_bccd.py'
BENCHMARKS['model_step_RetinaNet-R18'] = ['tools/benchmarks/model_step.py', DETECTOR]
BENCHMARKS['judge'] = ['tools/benchmarks/judge.py']
BENCHMARKS['sampling'] = ['tools/benchmarks/sampling.py']


def run(work_dir: Path, advance: Advance, name: str) -> dict:
    rows = work_dir.resolve() / 'rows.json'
    rows.parent.mkdir(parents=True, exist_ok=True)
    environment = {k: v for k, v in os.environ.items() if k not in REUSED_MEMORY}
    if name.endswith('reused-memory'):
        environment |= REUSED_MEMORY
    command = [sys.executable, *BENCHMARKS[name], '--json', str(rows)]
    subprocess.run(command, check=True, cwd=ROOT, env=environment)
    return dict(kind='cost', rows=read_json(rows))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--only', nargs='+', choices=list(BENCHMARKS), default=list(BENCHMARKS))
    parser.add_argument('--out', type=Path, default=ROOT / 'docs/results/cost')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/evidence/cost'))
    args = parser.parse_args(arguments)
    units = [Unit(name, functools.partial(run, name=name)) for name in args.only]
    run_units(units, 'python tools/evidence/cost.py', args.out, args.work_dir)


if __name__ == '__main__':
    run_command(main, 'the same command goes on')
