"""The part of docs/results.md on the search's predictor, from the records of predictor.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from frame import read_json
from report_ranking import redrawn_taus, tau
from runs import MODELS
from tables import note, table

TRUTHS = dict(cut='as cut', finetuned='fine-tuned')


def predictor_section(folder: Path) -> str:
    """How the predictor ranks subnets, and how FLOPs alone rank them."""
    lines = []
    for path in sorted(folder.glob('*.json')):
        record = read_json(path)
        scores = -np.array(record['predicted']), -np.array(record['losses']), record['flops']
        about = MODELS[record['name']].title.partition(',')[0], f'{record["budget"][:-1]} %'
        for truth, key in dict(cut='scores', finetuned='finetuned').items():
            if record.get(key):
                cells = agreements(np.array(scores, float), np.array(record[key]))
                seconds = f'{record["seconds_of_a_candidate"]:.1f}'
                lines.append([*about, TRUTHS[truth], record['explored'], *cells, seconds])
                about = '', ''
    if not lines:
        return '\nNot run: `python tools/evidence/predictor.py MODEL`\n'
    header = '', 'around', 'truth', 'explored', 'predictor', 'loss', 'FLOPs alone', 'difference'
    return (
        '\n`search` judges subnets around the widths of `sensitivity`, and fits a predictor to '
        'their losses. Does the predictor rank other subnets? For this table 24 others, of 0.75 '
        'to 1.25 times the budget, were cut, reconstructed and validated. Those of one model were '
        "also fine-tuned. A cell has the agreement with their metric (Kendall's τ), ± with other "
        'subnets. "Loss" is that on training images, which the search would have seen had it '
        'judged them.\n'
        + table((*header, 's a candidate'), lines, left=3)
        + note(folder, 'notes')
        + '\nRerun: `python tools/evidence/predictor.py MODEL --flops BUDGET`\n'
    )


def agreements(scores: np.ndarray, truth: np.ndarray) -> list[str]:
    """Kendall's tau of each row of scores, how far the first is above the last, and the errors.

    Args:
        scores: ``(rows, subnets)``.
        truth: ``(subnets,)``.
    """
    values = [tau(row, truth) for row in scores]
    draws = np.random.default_rng(0).choice(len(truth), (2000, len(truth)))
    taus = np.column_stack([redrawn_taus(row, truth, draws) for row in scores])
    errors = np.nanstd(np.column_stack([taus, taus[:, 0] - taus[:, -1]]), axis=0)
    values.append(values[0] - values[-1])
    return [f'{value:.2f} ± {error:.2f}' for value, error in zip(values, errors)]
