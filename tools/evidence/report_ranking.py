"""The part of docs/results.md on rankings, from the records of tools/evidence/ranking.py."""

from __future__ import annotations

import itertools
import statistics
from pathlib import Path

import numpy as np
from frame import read_json
from scipy.stats import kendalltau, spearmanr
from tables import note, provenance, spread, table

from mmpse.search.ranking import ranking_agreement

NAMES = {
    'parallel-masked': 'parallel (PSE-Net), masked',
    'parallel-sliced': 'parallel (PSE-Net), sliced',
    'sandwich': 'sandwich (AutoSlim)',
    'spos': 'single path (SPOS)',
    'stage-wise': 'stage-wise (SP)',
}
NAMES.update(
    {f'{way}-pretrained': f'{NAMES[way]}, from the full network' for way in list(NAMES)[1:]}
)


class Ranking:
    """The records of one network at one scale."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        subnets = read_json(folder / 'subnets.json')
        self.flops = np.array([s['resources']['flops'] / 1e6 for s in subnets])
        self.records = [read_json(path) for path in sorted(folder.glob('*_seed*.json'))]
        self.alone = [record for record in self.records if record['kind'] == 'alone']
        self.supernets = [r for r in self.records if r['kind'] == 'supernet' and r['way'] in NAMES]
        self.seconds = sorted({r['seconds_allowed'] for r in self.supernets}, reverse=True)

    @property
    def accuracies(self) -> np.ndarray:
        """Of every subnet trained alone, the mean over its seeds; NaN where it was not."""
        tests = [
            [record['test'] for record in self.alone if record['subnet'] == index]
            for index in range(len(self.flops))
        ]
        return np.array([statistics.mean(values) if values else np.nan for values in tests])

    def of(self, way: str, seconds: float) -> list[dict]:
        return [r for r in self.supernets if (r['way'], r['seconds_allowed']) == (way, seconds)]


def ranking(of: Ranking) -> str:
    times = [record['train_seconds'] for record in of.alone]
    text = (
        f'\n{len(of.flops)} subnets of {min(of.flops):.1f} to {max(of.flops):.1f} M FLOPs '
        f'([{of.folder.name}](results/ranking/{of.folder.name}/subnets.json)) were trained alone, '
        f'{min(times):.0f} to {max(times):.0f} s each. Ranked by their accuracy in a supernet, in '
        'what order are they?\n' + ceiling(of)
    )
    trained = np.isfinite(of.accuracies)
    if not trained.all():
        text += f'\nNot finished: {trained.sum()} of {len(trained)} subnets are trained alone.\n'
    if trained.sum() < 3:
        return text
    for seconds in of.seconds:
        text += f'\nSupernets trained for {seconds:g} s:\n' + agreement(of, seconds, trained)
    text += (
        '\n"± with other subnets" is the standard deviation over 2,000 redraws of the subnets '
        '(bootstrap). "Beside FLOPs": Spearman\'s ρ of what a parabola in the logarithm of the '
        'FLOPs leaves over of scores and accuracies. "Subnets": mean accuracy of all of them in '
        'the supernet, on held-out training images.\n' + note(of.folder, 'notes')
    )
    what = f'{len(of.alone)} trainings alone and {len(of.supernets)} supernets'
    return text + provenance(of.folder, of.records, what)


def ceiling(of: Ranking) -> str:
    """How far one training alone agrees with another one of the same subnets."""
    tests = {(r['subnet'], r['seed']): r['test'] for r in of.alone}
    seeds = sorted({seed for _, seed in tests})
    repeated = [k for k in range(len(of.flops)) if all((k, seed) in tests for seed in seeds)]
    if len(seeds) < 2 or len(repeated) < 3:
        return ''
    rows = np.array([[tests[k, seed] for k in repeated] for seed in seeds])
    taus = [tau(a, b) for a, b in itertools.combinations(rows, 2)]
    noise = np.sqrt(np.var(rows, axis=0, ddof=1).mean())
    return (
        f"The noise ceiling is Kendall's τ between two trainings alone: {spread(taus, '.2f')} over "
        f'{len(taus)} pairs of seeds of {len(repeated)} subnets, which differ by {noise:.1f} '
        'points.\n'
    )


def agreement(of: Ranking, seconds: float, trained: np.ndarray) -> str:
    rankings = {'FLOPs alone': [dict(scores=of.flops)]}
    rankings.update({name: of.of(way, seconds) for way, name in NAMES.items()})
    truth, flops = of.accuracies[trained], of.flops[trained]
    draws = np.random.default_rng(0).choice(len(truth), (2000, len(truth)))
    rows = []
    for name, records in rankings.items():
        if not records:
            continue
        scores = [np.array(record['scores'])[trained] for record in records]
        taus = [ranking_agreement(s, truth, (3,))['kendall_tau'] for s in scores]
        redrawn = np.mean([redrawn_taus(s, truth, draws) for s in scores], axis=0)
        row = [name, spread(taus, '.2f'), f'{np.std(redrawn):.2f}']
        if name != 'FLOPs alone':
            row.append(spread([beside_flops(s, truth, flops) for s in scores], '.2f'))
            row.append(spread([statistics.mean(record['scores']) for record in records], '.1f'))
            row.append(str(len(records)))
        rows.append(row + [''] * (6 - len(row)))
    header = 'ranked by', "Kendall's τ", '± with other subnets', 'beside FLOPs', 'subnets (%)'
    return table((*header, 'seeds'), rows)


def beside_flops(scores: np.ndarray, accuracies: np.ndarray, flops: np.ndarray) -> float:
    """How far the scores know what FLOPs do not."""
    base = np.vander(np.log(flops), 3)
    left = [x - base @ np.linalg.lstsq(base, x, rcond=None)[0] for x in (scores, accuracies)]
    return spearmanr(*left).statistic


def tau(a: np.ndarray, b: np.ndarray) -> float:
    return kendalltau(a, b).statistic


def redrawn_taus(a: np.ndarray, b: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Kendall's tau-b, as :func:`tau`, of every redraw of the subnets; NaN where all are equal.

    Args:
        a, b: ``(subnets,)``.
        draws: Indices, ``(redraws, subnets)``.
    """
    orders = [np.sign(np.subtract.outer(x, x)) for x in (a, b)]
    one, other = (order[draws[:, :, None], draws[:, None, :]] for order in orders)

    def total(pairs: np.ndarray) -> np.ndarray:
        return pairs.sum(axis=(1, 2))

    with np.errstate(invalid='ignore'):
        return total(one * other) / np.sqrt(total(one**2) * total(other**2))
