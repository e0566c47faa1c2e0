"""The part of docs/results.md on supernets of trained models, from the records of supernets.py."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from frame import read_json
from records import percent, points, records
from runs import MODELS
from tables import note, spread, table

NAMES = {
    'sensitivity': '`sensitivity`, no supernet, as long in all',
    'predictor': 'a predictor, of a supernet of parallel subnets (PSE-Net)',
    'evolution': 'evolution, of the same supernet',
    'greedy': 'greedy slimming of a sandwich supernet (AutoSlim)',
}
WITHOUT = {'uniform': '`uniform`, no supernet', 'sensitivity': '`sensitivity`, no supernet'}


def supernets_section(folder: Path, whole: Path) -> str:
    """Several budgets from one supernet, beside the same without one."""
    found = [read_json(path) for path in sorted(folder.glob('*.json'))]
    if not found:
        return '\nNot run: `python tools/evidence/supernets.py MODEL --kind psenet`\n'
    text = (
        '\nThe trained model is trained on as a supernet, for as many epochs as a pruned model is '
        'fine-tuned. Each search knows what the searches for other budgets judged. The widths are '
        'cut from the trained model, reconstructed and fine-tuned as everywhere; or they are cut '
        'from the supernet, keep its weights and are fine-tuned. The table has the metric on the '
        'test split. The seconds are those of all budgets of a line together, with the supernet.\n'
    )
    for name in dict.fromkeys(record['name'] for record in found):
        own = [record for record in found if record['name'] == name]
        budgets = {row['budget'] for record in own for row in record['rows']}
        budgets = sorted(budgets, key=percent, reverse=True)
        rows = [row for row in records(whole) if row['name'] == name and row['budget'] in budgets]
        lines = [*without(rows, budgets), *searched(own, budgets)]
        header = [MODELS[name].title, *(f'{budget[:-1]} % of FLOPs' for budget in budgets)]
        text += table([*header, 'judged', 'CPU seconds'], lines)
    return (
        text
        + note(folder, 'notes')
        + ('\nRerun: `python tools/evidence/supernets.py MODEL --kind KIND [--inherit]`\n')
    )


def without(rows: Sequence[dict], budgets: Sequence[str]) -> Iterator[list[Any]]:
    """The lines of prunings without a supernet."""
    for how, title in WITHOUT.items():
        own = [[r for r in rows if (r['how'], r['budget']) == (how, b)] for b in budgets]
        seconds = sum(statistics.mean(r['cpu_seconds'] for r in part) for part in own if part)
        yield [title, *map(cell, own), '', f'{seconds:.0f}']


def searched(found: Sequence[dict], budgets: Sequence[str]) -> Iterator[list[Any]]:
    """The lines of supernets' searches, and of what keeps a supernet's weights."""
    for inherit, more in {False: '', True: "; the supernet's weights"}.items():
        for search, title in NAMES.items():
            own, judged, seconds, runs = [[] for _ in budgets], 0, 0.0, 0
            for record in found:
                key = search, inherit
                rows = [row for row in record['rows'] if (row['search'], row['inherit']) == key]
                runs += bool(rows)
                seconds += record['training']['cpu_seconds'] if rows else 0
                for row in rows:
                    own[budgets.index(row['budget'])].append(dict(row, metric=record['metric']))
                    judged += row['judged']
                    seconds += row['search_seconds'] + row['cpu_seconds']
            if runs:
                means = judged // runs or '', f'{seconds / runs:.0f}'
                yield [title + more, *map(cell, own), *means]


def cell(rows: Sequence[dict]) -> str:
    return spread(points(rows, 'test'), '.1f') if rows else ''
