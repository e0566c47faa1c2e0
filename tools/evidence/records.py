"""The records of whole.py: reading them, and what follows from them."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from frame import read_json
from mmengine.config import Config
from runs import METHODS, MODELS, Run

RECORDS = Path('docs/results/whole')


def records(folder: Path = RECORDS) -> list[dict]:
    """All records, in the order of tables."""
    found = [read_json(path) for path in sorted(folder.glob('*.json'))]
    order = list(METHODS).index
    return sorted(
        found,
        key=lambda r: (r['name'], ' ' in r['budget'], -percent(r['budget']), order(r['how'])),
    )


def record_of(run: Run) -> dict:
    """The record of a run that another run is as long as."""
    path = RECORDS / f'{run}.json'
    if not path.exists():
        sys.exit(f'how long it may take follows from {path}, which is not there yet')
    return read_json(path)


def points(rows: Iterable[dict], split: str) -> list[float]:
    """Metrics of the split that there are, in percent."""
    values = [row[split] for row in rows if split in row]
    return [value if value > 1 else 100 * value for value in values]


def percent(budget: str) -> float:
    """The number in a budget: 50.0 of ``'50%'`` and of ``'latency 50%'``."""
    return float(budget.rpartition(' ')[2].rstrip('%'))


def epoch_seconds(row: dict) -> float:
    """CPU seconds of an epoch of fine-tuning."""
    share = row['steps']['fine-tuning'] / sum(row['steps'].values())
    return row['cpu_seconds'] * share / row['epochs']


def full_seconds(name: str, rows: Iterable[dict]) -> float:
    """CPU seconds of the full model's training, by what an epoch of it takes in `unpruned`."""
    epochs = Config.fromfile(MODELS[name].config).train_cfg.max_epochs
    own = (row for row in rows if (row['name'], row['how']) == (name, 'unpruned'))
    return epochs * epoch_seconds(next(row for row in own if row.get('steps')))
