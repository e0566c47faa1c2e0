"""The part of docs/results.md on the search's predictor, from the records of predictor.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from frame import read_json
from report_ranking import beside_flops, tau
from tables import note, table
from whole import MODELS


def predictor_section(folder: Path) -> str:
    """How the predictor ranks subnets, and how FLOPs alone rank them."""
    lines = []
    for path in sorted(folder.glob('*.json')):
        record = read_json(path)
        truth, flops = np.array(record['scores']), np.array(record['flops'], float)
        predicted = -np.array(record['predicted'])
        draws = np.random.default_rng(0).choice(len(truth), (2000, len(truth)))
        taus = np.array([[tau(x[d], truth[d]) for x in (predicted, flops)] for d in draws])
        both = tau(predicted, truth), tau(flops, truth)
        errors = np.nanstd(np.column_stack([taus, taus[:, 0] - taus[:, 1]]), axis=0)
        ahead = *both, both[0] - both[1]
        lines.append(
            [
                MODELS[record['name']].title.partition(',')[0],
                f'{record["budget"][:-1]} %',
                record['losses_recorded'],
                *(f'{value:.2f} ± {error:.2f}' for value, error in zip(ahead, errors)),
                f'{beside_flops(predicted, truth, flops):.2f}',
                f'{record["seconds_of_a_candidate"]:.1f}',
            ]
        )
    if not lines:
        return '\nNot run: `python tools/evidence/predictor.py`\n'
    header = '', 'around', 'losses', 'τ of the predictor', 'of FLOPs alone', 'difference'
    return (
        '\nBefore it chooses, `search` trains the model as a supernet, and fits a predictor to the '
        'losses of its subnets. 24 random subnets, spread over a tenth to all of the FLOPs, were '
        'judged with the shared weights, recalibrated, on training images held out. Agreement of '
        "the two rankings (Kendall's τ), ± with other subnets:\n"
        + table((*header, 'beside FLOPs', 's a candidate'), lines)
        + note(folder, 'notes')
        + '\nRerun: `python tools/evidence/predictor.py MODEL --epochs EPOCHS`\n'
    )
