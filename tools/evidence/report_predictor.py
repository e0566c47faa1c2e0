"""The part of docs/results.md on the search's predictor, from the records of predictor.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from frame import read_json
from report_ranking import tau
from tables import note, table
from whole import MODELS


def predictor_section(folder: Path) -> str:
    """How the predictor ranks subnets, and how FLOPs alone rank them."""
    lines = []
    for path in sorted(folder.glob('*.json')):
        record = read_json(path)
        truth, flops = np.array(record['scores']), np.array(record['flops'], float)
        ways = [-np.array(record['predicted']), -np.array(record['losses']), flops]
        draws = np.random.default_rng(0).choice(len(truth), (2000, len(truth)))
        taus = np.array([[tau(x[d], truth[d]) for x in ways] for d in draws])
        values = [tau(x, truth) for x in ways]
        values.append(values[0] - values[2])
        errors = np.nanstd(np.column_stack([taus, taus[:, 0] - taus[:, 2]]), axis=0)
        lines.append(
            [
                MODELS[record['name']].title.partition(',')[0],
                f'{record["budget"][:-1]} %',
                record['explored'],
                *(f'{value:.2f} ± {error:.2f}' for value, error in zip(values, errors)),
                f'{record["seconds_of_a_candidate"]:.1f}',
            ]
        )
    if not lines:
        return '\nNot run: `python tools/evidence/predictor.py MODEL`\n'
    header = '', 'around', 'explored', 'predictor', 'loss', 'FLOPs alone', 'predictor - FLOPs'
    return (
        '\n`search` judges subnets around the widths of `sensitivity`, and fits a predictor to '
        'their losses. 24 other subnets of 0.75 to 1.25 times the budget were cut, reconstructed '
        'and validated. Agreement with their metric (Kendall\'s τ), ± with other subnets; "loss" '
        'is that on training images, which the search would have seen had it judged them:\n'
        + table((*header, 's a candidate'), lines)
        + note(folder, 'notes')
        + '\nRerun: `python tools/evidence/predictor.py MODEL --flops BUDGET`\n'
    )
