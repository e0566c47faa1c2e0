"""The figure of the README and of docs/results.md, from the records of whole.py."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from frame import read_json
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from records import percent, points, records
from runs import MODELS

from mmpse.files import written

COLORS = {'uniform': '0.55', 'torch-pruning': 'C2', 'sensitivity': 'C0', 'search': 'C1'}
TICKS = (5, 10, 20, 50, 100)


def draw(folder: Path, image: Path, name: str) -> None:
    """The metric against the FLOPs, and the widths at the smallest budget.

    Args:
        folder: Of the records.
        image: The file to write, PNG.
        name: Of the model.
    """
    rows = [row for row in records(folder) if row['name'] == name and ' ' not in row['budget']]
    figure = Figure(figsize=(10, 3.6), layout='constrained')
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    draw_metric(left, rows, MODELS[name].title)
    draw_widths(right, rows, folder / 'subnets')
    image.parent.mkdir(exist_ok=True)
    with written(image) as (temporary,):
        figure.savefig(temporary, dpi=110, format='png', metadata=dict(Software=None))


def draw_metric(axes: Axes, rows: Sequence[Mapping], title: str) -> None:
    """Mean and standard deviation over seeds, a line a method."""
    for how, mark in dict(trained='s', unpruned='D').items():
        own = points([row for row in rows if row['how'] == how], 'test')
        if own:
            color = '0.4' if how == 'trained' else 'black'
            label = 'unpruned, as given' if how == 'trained' else 'unpruned, same extra epochs'
            axes.axhline(statistics.mean(own), color=color, linewidth=0.8, linestyle='--')
            errorbar(axes, [100], [own], fmt=mark, color=color, label=label)
    for how, color in COLORS.items():
        own = [row for row in rows if row['how'] == how]
        budgets = sorted({row['budget'] for row in own}, key=percent)
        groups = [[row for row in own if row['budget'] == budget] for budget in budgets]
        if groups:
            x = [100 * statistics.mean(row['flops'] for row in group) for group in groups]
            errorbar(
                axes,
                x,
                [points(group, 'test') for group in groups],
                fmt='o-',
                color=color,
                label=how,
            )
    axes.set_xscale('log')
    axes.set_xticks(TICKS, [f'{tick} %' for tick in TICKS])
    axes.minorticks_off()
    axes.set_xlim(7, 130)
    axes.set_xlabel('FLOPs of the whole model')
    model, _, metric = title.rpartition(', ')
    axes.set_ylabel(f'{metric}, test split')
    axes.set_title(model, fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc='upper center', bbox_to_anchor=(0.5, -0.2), ncol=3)


def errorbar(axes: Axes, x: Sequence[float], values: Sequence[Sequence[float]], **how) -> None:
    means = [statistics.mean(of_seeds) for of_seeds in values]
    errors = [statistics.stdev(of_seeds) if len(of_seeds) > 1 else 0.0 for of_seeds in values]
    axes.errorbar(x, means, errors, capsize=3, markersize=4, linewidth=1.2, **how)


def draw_widths(axes: Axes, rows: Sequence[Mapping], folder: Path) -> None:
    """Share of channels kept in every unit at the smallest budget, a line a method."""
    rows = [row for row in rows if row['how'] in COLORS]
    if not rows:
        return
    least = min((row['budget'] for row in rows), key=percent)
    for how, color in COLORS.items():
        own = [row for row in rows if (row['how'], row['budget']) == (how, least)]
        if own:
            row = min(own, key=lambda row: row['seed'])
            budget = least.rstrip('%')
            subnet = read_json(folder / f'{row["name"]}_{budget}_{how}_{row["seed"]}.json')
            full = subnet['backbone']['units']
            shares = [100 * subnet['widths'][unit] / full[unit] for unit in full]
            # a search may keep the widths of the sensitivity
            style = 'o:' if how == 'search' else 'o-'
            axes.plot(range(len(full)), shares, style, color=color, markersize=3, linewidth=1.2)
    parts = [unit.partition('.')[0] for unit in full]
    for k in range(1, len(parts)):
        if parts[k] != parts[k - 1]:
            axes.axvline(k - 0.5, color='0.8', linewidth=0.8)
    for part in dict.fromkeys(parts):
        middle = statistics.mean(k for k, own in enumerate(parts) if own == part)
        axes.text(middle, 103, part.replace('bbox_', ''), ha='center', fontsize=8)
    names = [unit.partition('.')[2].removesuffix('.conv') for unit in full]
    axes.set_xticks(range(len(full)), names, rotation=60, ha='right', fontsize=6)
    axes.set_ylim(0, 112)
    axes.set_ylabel('channels kept (%)')
    axes.set_title(f'widths at {least} of the FLOPs, seed 0', fontsize=9)
    axes.grid(alpha=0.3, axis='y')
