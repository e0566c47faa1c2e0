"""Section 1 of docs/results.md, and the table of the README, from the records of whole.py."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from report_figure import draw
from tables import note, spread, table
from whole import HOWS, MODELS, percent, points, records

NAMES = {
    'trained': 'as it was trained',
    'unpruned': 'trained as much longer',
    'unpruned-taught': 'trained as much longer, taught by itself',
    'uniform': '`uniform`',
    'torch-pruning': 'Torch-Pruning, group norm',
    'torch-pruning-taylor': 'Torch-Pruning, Taylor',
    'torch-pruning-fifth': 'Torch-Pruning, group norm, floor of a fifth',
    'torch-pruning-taylor-fifth': 'Torch-Pruning, Taylor, floor of a fifth',
    'sensitivity': '`sensitivity` (the default)',
    'search': '`search`',
    'uniform-l1': '`uniform`, sorted by `l1`',
    'sensitivity-l1': '`sensitivity`, sorted by `l1`',
}


FIRST = next(iter(MODELS))  # the model of the figure and of the README
MAIN = [how for how in HOWS if not how.endswith(('-fifth', '-taylor', '-taught', '-l1'))]


def whole_section(folder: Path, images: Path) -> str:
    """The page's first table, its figure, notes by hand, and what stands behind the table."""
    rows = records(folder)
    text = top(rows, list(MODELS))
    if any(row['name'] == FIRST for row in rows):
        draw(folder, images / f'{FIRST}.png', FIRST)
        text += f'\n![{MODELS[FIRST].title} against FLOPs](images/{FIRST}.png)\n'
    text += note(folder, 'account')
    return text + ''.join(behind(folder, name, rows) for name in MODELS)


def readme_table(folder: Path) -> str:
    """The same table of one model."""
    return top(records(folder), [FIRST])


def top(rows: Sequence[dict], names: Sequence[str]) -> str:
    """The ways of choosing widths of some models; a column for each share of the FLOPs."""
    budgets = {row['budget'] for row in rows if row['name'] in names}
    budgets = sorted(budgets, key=lambda budget: (' ' in budget, -percent(budget)))
    lines = []
    for name in names:
        title = MODELS[name].title
        for how in MAIN:
            cells = []
            for budget in budgets:
                key = name, budget, how
                own = [r for r in rows if (r['name'], r['budget'], r['how']) == key]
                seeds = f' ({len(own)})' if len(own) > 1 else ''
                cells.append(spread(points(own, 'test'), '.1f') + seeds if own else '')
            if any(cells):
                lines.append([title, NAMES[how], *cells])
                title = ''
    header = ['', 'widths', *map(heading, budgets)]
    if len(names) == 1:
        header, lines = header[1:], [line[1:] for line in lines]
    return table(header, lines, left=header.index('widths') + 1)


def heading(budget: str) -> str:
    kind, _, amount = budget.rpartition(' ')
    return f'{amount[:-1]} % of {f"the {kind}" if kind else "FLOPs"}'


def behind(folder: Path, name: str, rows: Sequence[dict]) -> str:
    """Of one model: what every figure of the table is made of."""
    rows = [row for row in rows if row['name'] == name]
    if not rows:
        return f'\n### {MODELS[name].title}\n\nNot run: `{command(name)}`\n'
    lines = []
    for key in dict.fromkeys((row['budget'], row['how']) for row in rows):
        own = [row for row in rows if (row['budget'], row['how']) == key]
        times = [row['cpu_seconds'] for row in own if row.get('cpu_seconds')]
        speed = [ratio(row) for row in own if 'report' in row]
        lines.append(
            [
                heading(key[0]),
                NAMES[key[1]],
                f'{100 * statistics.mean(row["flops"] for row in own):.1f} %',
                ' '.join(f'{value:.1f}' for value in points(own, 'test')),
                ' '.join(f'{value:.1f}' for value in points(own, 'val')),
                f'{statistics.mean(speed):.2f}' if speed else '',
                f'{statistics.mean(times):.0f}' if times else '',
            ]
        )
    header = 'budget', 'widths', 'FLOPs', 'test', 'validation', 'latency', 'CPU seconds'
    return (
        f'\n### {MODELS[name].title}\n'
        + table(header, lines, left=2)
        + note(folder, name)
        + f'\nRerun: `{command(name)}`\n'
    )


def ratio(row: dict) -> float:
    """Latency in PyTorch, as a share of the unpruned model's, measured beside it."""
    after, before = (row['report'][stage]['latency_ms'] for stage in ('after', 'before'))
    return after / before


def command(name: str) -> str:
    return f'python tools/evidence/whole.py {name}'
