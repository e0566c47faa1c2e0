"""The figure of the README, from the records of whole.py. Trains nothing.

python tools/evidence/whole_figure.py retinanet-r18_bccd --title 'RetinaNet R-18 on BCCD' \
    --metric 'box mAP on the test split'

On the left the metric against the FLOPs, on the right the widths at the smallest budget.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmpse.files import written

RECORDS, IMAGES = Path('docs/results/whole'), Path('docs/images')
COLORS = dict(uniform='0.55', sensitivity='C0', search='C1')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('name', help='of the records')
    parser.add_argument('--title', required=True, help='what was pruned')
    parser.add_argument('--metric', required=True, help='what was measured, for the axis')
    return parser.parse_args()


def read(name: str) -> list[dict]:
    """The records of a model, each with the widths of its units where it has some.

    Raises:
        FileNotFoundError: If there are none.
    """
    paths = sorted(RECORDS.glob(f'{name}_*.json'))
    if not paths:
        raise FileNotFoundError(f'{RECORDS} has no {name}_*.json; whole.py writes them')
    records = []
    for path in paths:
        subnet = RECORDS / 'subnets' / path.name
        record = dict(json.loads(path.read_text()), subnet=None)
        if subnet.exists():
            record['subnet'] = json.loads(subnet.read_text())
        records.append(record)
    return records


def draw_metric(axes: Axes, records: list[dict], metric: str) -> None:
    """Mean and standard deviation over seeds against the share of FLOPs, a line a way."""
    full = next(100 * r['test'] for r in records if r['how'] == 'full')
    axes.axhline(full, color='black', linewidth=0.8, linestyle='--')
    axes.plot(100, full, 's', color='black', label='unpruned')
    for how, color in COLORS.items():
        points = []
        for budget in sorted({r['budget'] for r in records if r['how'] == how}):
            own = [r for r in records if (r['how'], r['budget']) == (how, budget)]
            tests = [100 * r['test'] for r in own]
            spread = np.std(tests, ddof=1) if len(own) > 1 else 0.0
            points.append((100 * np.mean([r['flops'] for r in own]), np.mean(tests), spread))
        if points:
            x, y, error = zip(*sorted(points), strict=True)
            axes.plot(x, y, 'o-', color=color, label=how)
            axes.errorbar(x, y, error, fmt='none', color=color, capsize=3 if any(error) else 0)
    axes.set_xscale('log')
    ticks = [5, 10, 20, 50, 100]
    axes.set_xticks(ticks, [f'{tick} %' for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(7, 120)
    axes.set_xlabel('FLOPs of the whole model')
    axes.set_ylabel(metric)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc='lower right')


def draw_widths(axes: Axes, records: list[dict]) -> None:
    """Share of channels kept in every unit at the smallest budget, a mark for each way."""
    records = [r for r in records if r['subnet'] is not None]
    least = min((r['budget'] for r in records), key=lambda budget: float(budget.rstrip('%')))
    full = records[0]['subnet']['backbone']['units']
    parts = [unit.partition('.')[0] for unit in full]
    for how, color in COLORS.items():
        own = [r for r in records if (r['how'], r['budget']) == (how, least)]
        if own:
            widths = min(own, key=lambda r: r['seed'])['subnet']['widths']
            shares = [100 * widths[unit] / full[unit] for unit in full]
            axes.plot(range(len(full)), shares, 'o-', color=color, markersize=4, label=how)
    for k in range(1, len(parts)):
        if parts[k] != parts[k - 1]:
            axes.axvline(k - 0.5, color='0.8', linewidth=0.8)
    for part in dict.fromkeys(parts):
        middle = np.mean([k for k, own in enumerate(parts) if own == part])
        axes.text(middle, 103, part.replace('bbox_', ''), ha='center', fontsize=8)
    names = [unit.partition('.')[2].removesuffix('.conv') for unit in full]
    axes.set_xticks(range(len(full)), names, rotation=60, ha='right', fontsize=6)
    axes.set_ylim(0, 112)
    axes.set_ylabel('channels kept (%)')
    axes.set_title(f'widths at {least} of the FLOPs', fontsize=9)
    axes.grid(alpha=0.3, axis='y')


def main() -> None:
    args = parse_args()
    records = read(args.name)
    figure = Figure(figsize=(10, 3.6), layout='constrained')
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    draw_metric(left, records, args.metric)
    left.set_title(args.title, fontsize=9)
    draw_widths(right, records)
    IMAGES.mkdir(exist_ok=True)
    with written(IMAGES / f'{args.name}.png') as (temporary,):
        figure.savefig(temporary, dpi=110, format='png')
    print(f'{IMAGES / args.name}.png')


if __name__ == '__main__':
    main()
