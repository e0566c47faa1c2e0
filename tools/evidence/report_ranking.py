"""Section 1 of docs/results.md, from the records of tools/evidence/ranking.py."""

from __future__ import annotations

import itertools
import statistics
from pathlib import Path

import numpy as np
from frame import read_json
from matplotlib.figure import Figure
from scipy.stats import kendalltau, spearmanr
from tables import note, provenance, spread, table

from mmpse.openmmlab.search.ranking import ranking_agreement

OURS = (
    'parallel-masked',
    'parallel-sliced',
    'parallel-sliced-pretrained',
    'stage-wise',
    'stage-wise-pretrained',
)
RIVALS = ('sandwich', 'spos', 'sandwich-pretrained', 'spos-pretrained')
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
GOAL = 0.75  # Kendall's tau
FIVE = 5  # subnets of the table of accuracies


class Ranking:
    """The records of one network at one scale."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.flops = [s['resources']['flops'] / 1e6 for s in read_json(folder / 'subnets.json')]
        records = [read_json(path) for path in sorted(folder.glob('*_seed*.json'))]
        self.records = records
        self.alone = [record for record in records if record['kind'] == 'alone']
        self.supernets = [record for record in records if record['kind'] == 'supernet']
        self.recalibrations = [record for record in records if record['kind'] == 'recalibration']
        self.seconds = sorted({r['seconds_allowed'] for r in self.supernets}, reverse=True)

    def accuracies(self, key: str = 'test') -> list[float]:
        """Of every subnet trained alone, the mean over its seeds; NaN where it was not."""
        means = []
        for index in range(len(self.flops)):
            values = [record[key] for record in self.alone if record['subnet'] == index]
            means.append(statistics.mean(values) if values else float('nan'))
        return means

    def of(self, way: str, seconds: float) -> list[dict]:
        return [r for r in self.supernets if (r['way'], r['seconds_allowed']) == (way, seconds)]


def ranking(of: Ranking) -> str:
    folder, text = of.folder, f'\n### {of.folder.name}\n'
    accuracies = of.accuracies()
    trained = np.isfinite(accuracies)
    text += setup(of)
    if not trained.all():
        text += f'\nNot finished: {trained.sum()} of {len(trained)} subnets are trained alone.\n'
    if trained.sum() < 3:
        return text
    picture = figure_of_accuracies(of)
    text += f'\n![accuracy alone against FLOPs]({save(picture, folder, "accuracies")})\n'
    text += ceiling(of)
    for seconds in of.seconds:
        text += agreement(of, seconds)
    for seconds in of.seconds:
        text += accuracies_at_equal_time(of, seconds)
    what = f'{len(of.alone)} trainings alone and {len(of.supernets)} supernets'
    return text + provenance(of.folder, of.records, what)


def setup(of: Ranking) -> str:
    steps = statistics.mean(record['steps'] for record in of.alone)
    times = [record['train_seconds'] for record in of.alone]
    return (
        f'\n{len(of.flops)} subnets, spread over {min(of.flops):.1f} to {max(of.flops):.1f} M '
        f'FLOPs ([subnets.json](results/ranking/{of.folder.name}/subnets.json)), the last one the '
        f'fullnet. Trained alone: {steps:.0f} steps each, {min(times):.0f} to {max(times):.0f} s; '
        'the same recipe for all, and for the supernets but for the length.\n'
        + note(of.folder, 'setup')
    )


def ceiling(of: Ranking) -> str:
    """How far one training alone agrees with another one of the same subnets."""
    tests = {(r['subnet'], r['seed']): r['test'] for r in of.alone}
    seeds = sorted({seed for _, seed in tests})
    repeated = [k for k in range(len(of.flops)) if all((k, seed) in tests for seed in seeds)]
    if len(seeds) < 2 or len(repeated) < 3:
        return '\nNoise ceiling: not run (one seed only).\n'
    rows = np.array([[tests[k, seed] for k in repeated] for seed in seeds])
    taus = [tau(a, b) for a, b in itertools.combinations(rows, 2)]
    noise = np.sqrt(np.var(rows, axis=0, ddof=1).mean())
    return (
        f'\nNoise ceiling: {len(repeated)} of the subnets were trained alone with {len(seeds)} '
        f"seeds. Kendall's τ between two seeds: {spread(taus, '.3f')} over {len(taus)} pairs of "
        f'seeds. Standard deviation between seeds: {noise:.2f} points of accuracy; the accuracies '
        f'of all subnets reach from {min(of.accuracies()):.1f} to {max(of.accuracies()):.1f} %.\n'
    )


def agreement(of: Ranking, seconds: float) -> str:
    accuracies = np.array(of.accuracies())
    trained = np.isfinite(accuracies)
    rankings: dict[str, list] = {'FLOPs alone': [of.flops]}
    seeds: dict[str, list[dict]] = {way: of.of(way, seconds) for way in NAMES}
    for way, name in NAMES.items():
        if seeds[way]:
            rankings[name] = [record['scores'] for record in seeds[way]]
    for way, name in NAMES.items():
        distances = [[-d for d in r['distances']] for r in seeds[way] if 'distances' in r]
        if distances:
            rankings[f'{name}, by its distances'] = distances
    figures = {
        name: [ranking_agreement(np.array(s)[trained], accuracies[trained], (3,)) for s in scores]
        for name, scores in rankings.items()
    }
    redraws = bootstrap(rankings, accuracies, trained)
    flops = np.array(of.flops)[trained]
    rest = {
        name: [beside_flops(np.array(s)[trained], accuracies[trained], flops) for s in scores]
        for name, scores in rankings.items()
    }
    rows = []
    for name, values in figures.items():
        columns = [[value[key] for value in values] for key in values[0]]
        better = (redraws[name] > redraws['FLOPs alone']).mean()
        rows.append(
            [
                name,
                *(spread(column, form) for column, form in zip(columns, ('.3f', '.3f', '.2f'))),
                f'{redraws[name].std():.3f}',
                '' if name == 'FLOPs alone' else f'{better:.0%}',
                '' if name == 'FLOPs alone' else spread(rest[name], '.2f'),
                '' if name == 'FLOPs alone' else len(values),
            ]
        )
    header = 'ranked by', "Kendall's τ", "Spearman's ρ", 'top-3 regret (points)'
    header = *header, 'τ: ± with other subnets', 'τ above that of FLOPs', 'ρ beside FLOPs', 'seeds'
    text = f'\n#### Ranking, supernets trained for {seconds:g} s\n' + table(header, rows)
    text += verdict(figures)
    text += note(of.folder, f'ranking_{seconds:g}s')
    missing = [name for way, name in NAMES.items() if not seeds[way]]
    if missing:
        text += f'\nNot run: {", ".join(missing)}.\n'
    text += (
        '\n"± with other subnets" is the standard deviation, and "τ above that of FLOPs" the '
        'share, over 2,000 redraws of the subnets (bootstrap). "ρ beside FLOPs": Spearman\'s ρ of '
        'what a parabola in the logarithm of the FLOPs leaves over of scores and accuracies. '
        'Regret: what the best of the 3 best-ranked subnets lacks to the best of all, in points of '
        'accuracy.\n'
    )
    shown = {NAMES[way]: records for way, records in seeds.items() if records}
    if shown:
        picture = figure_of_scores(shown, accuracies)
        text += f'\n![scores against accuracies]({save(picture, of.folder, f"{seconds:g}s")})\n'
    return text


def bootstrap(rankings: dict, accuracies: np.ndarray, trained: np.ndarray) -> dict:
    """Mean τ over the seeds for 2,000 redraws of the subnets, the same ones for all rankings."""
    rng = np.random.default_rng(0)
    draws = rng.choice(np.flatnonzero(trained), (2000, trained.sum()))
    return {
        name: np.mean([[tau(np.array(s)[d], accuracies[d]) for d in draws] for s in scores], axis=0)
        for name, scores in rankings.items()
    }


def beside_flops(scores: np.ndarray, accuracies: np.ndarray, flops: np.ndarray) -> float:
    """How far the scores know what FLOPs do not."""
    base = np.vander(np.log(flops), 3)
    left = [x - base @ np.linalg.lstsq(base, x, rcond=None)[0] for x in (scores, accuracies)]
    return spearmanr(*left).statistic


def tau(a: np.ndarray, b: np.ndarray) -> float:
    return kendalltau(a, b).statistic


def verdict(figures: dict[str, list[dict]]) -> str:
    """In plain words, where the best of ours ranks, and who of ours is behind the best rival."""
    taus = {name: statistics.mean(v['kendall_tau'] for v in vs) for name, vs in figures.items()}
    ours = {NAMES[way]: taus[NAMES[way]] for way in OURS if NAMES[way] in taus}
    rivals = {NAMES[way]: taus[NAMES[way]] for way in RIVALS if NAMES[way] in taus}
    if not ours:
        return ''
    best = max(ours, key=ours.get)
    own, others, behind = ours[best], {'FLOPs alone': taus['FLOPs alone']}, []
    if rivals:
        rival = max(rivals, key=rivals.get)
        others[f'the best rival, {rival}'] = rivals[rival]
        behind = [name for name, value in ours.items() if value <= rivals[rival] < own]
    text = f'The best of ours, {best} (τ {own:.3f}), ranks '
    text += ', '.join(
        f'{"better" if own > value else "no better"} than {name} ({value:.3f})'
        for name, value in others.items()
    )
    text += f', and {"reaches" if own >= GOAL else "misses"} the goal of {GOAL}'
    if behind:
        text += f'. Others of ours rank no better than this rival: {"; ".join(behind)}'
    return f'\n**{text}.**\n'


def accuracies_at_equal_time(of: Ranking, seconds: float) -> str:
    count = len(of.flops)
    five = [round(k * (count - 1) / (FIVE - 1)) for k in range(FIVE)][::-1]
    rows = []
    for way, name in NAMES.items():
        records = of.of(way, seconds)
        if records:
            of_five = [[record['scores'][k] for record in records] for k in five]
            rows.append(
                [
                    name,
                    round(statistics.mean(record['steps'] for record in records)),
                    spread([record['scores'][-1] for record in records], '.1f'),
                    spread([statistics.mean(values) for values in zip(*of_five)], '.1f'),
                    ' '.join(f'{statistics.mean(values):.1f}' for values in of_five),
                    spread([statistics.mean(record['scores']) for record in records], '.1f'),
                ]
            )
    alone = of.accuracies('held_out')
    if np.isfinite(alone).all():
        of_five = [alone[k] for k in five]
        row = ['each trained alone', '', f'{alone[-1]:.1f}', f'{statistics.mean(of_five):.1f}']
        row += [' '.join(f'{value:.1f}' for value in of_five), f'{statistics.mean(alone):.1f}']
        rows.append(row)
    header = 'trained by', 'steps', 'fullnet', 'mean of 5', 'the 5, from the fullnet down'
    return (
        f'\n#### Accuracy on held-out training images (%), supernets trained for {seconds:g} s\n'
        + table((*header, f'mean of all {count}'), rows)
        + note(of.folder, f'accuracy_{seconds:g}s')
    )


def figure_of_accuracies(of: Ranking) -> Figure:
    """Accuracy of every training alone against FLOPs."""
    figure = Figure(figsize=(6, 3.6), layout='constrained')
    axes = figure.subplots()
    for seed in sorted({record['seed'] for record in of.alone}):
        records = [record for record in of.alone if record['seed'] == seed]
        x = [of.flops[record['subnet']] for record in records]
        axes.scatter(x, [record['test'] for record in records], s=16, label=f'seed {seed}')
    axes.set_xlabel('FLOPs (M multiply-adds)')
    axes.set_ylabel('accuracy alone (%)')
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def figure_of_scores(records: dict[str, list[dict]], accuracies: np.ndarray) -> Figure:
    """Score in the supernet against accuracy alone, one panel per way of training."""
    figure = Figure(figsize=(3.2 * len(records), 3.2), layout='constrained')
    panels = figure.subplots(1, len(records), squeeze=False)[0]
    for axes, (name, of_way) in zip(panels, records.items()):
        for record in of_way:
            axes.scatter(accuracies, record['scores'], s=14, label=f'seed {record["seed"]}')
        axes.set_title(name, fontsize=10)
        axes.set_xlabel('accuracy alone (%)')
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    panels[0].set_ylabel('accuracy in the supernet (%)')
    return figure


def save(figure: Figure, folder: Path, name: str) -> str:
    """Write a figure beside the records; its address as seen from the page."""
    path = folder.parents[1] / f'{folder.parent.name}_{folder.name}_{name}.png'
    figure.savefig(path, dpi=100, metadata=dict(Software=None))
    return f'{path.parent.name}/{path.name}'
